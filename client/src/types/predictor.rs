//! Which of several versions would this user choose? A guess from what they chose before, with its reasons.
//!
//! A conditional logit, learned online: each version scores the sum of the weights of what is true of it, the chance
//! of being chosen is the softmax of the scores, and each choice moves the weights along the gradient. Beta counts per
//! feature would be simpler, but "newer" and "longer" often come together, and counting both would count one habit
//! twice; the gradient shares the credit. There is one set of weights for each field and one for all fields, added
//! up: a new field begins with the user's habits. No randomness and fixed order of arithmetic: the same choices give
//! the same suggestions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A field must have seen this many choices before it suggests anything,
pub const MIN_FIELD_CHOICES: u32 = 3;
/// or all fields together this many.
pub const MIN_CHOICES: u32 = 5;
/// What is no more likely than this is not suggested.
pub const MIN_PROBABILITY: f64 = 0.6;
/// Fields remembered; beyond that the one not used for longest is forgotten.
pub const MAX_FIELDS: usize = 1_000;

/// How far one choice moves the weights. Large: people make few choices, and expect to be understood soon.
const LEARNING_RATE: f64 = 0.5;
/// How much of a weight is forgotten with each choice: habits change, and weights must not grow without end.
const DECAY: f64 = 0.02;
/// The format of [`Predictor::to_bytes`].
const FORMAT: u32 = 1;

const FEATURES: usize = 5;
type Features = [f64; FEATURES];
/// What each feature says when it speaks for a version.
const FOR: [&str; FEATURES] = [
    "you tend to choose the newer version",
    "you tend to choose your own version",
    "you tend to choose the longer version",
    "you chose this author last time",
    "you tend to choose the author who is here now",
];
/// And when it speaks for it by being untrue of it.
const AGAINST: [&str; FEATURES] = [
    "you tend to choose the older version",
    "you tend to choose the version of others",
    "you tend to choose the shorter version",
    "you tend to change from author to author",
    "you tend to choose the author who is not here now",
];

/// A version that can be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: String,
    /// Who wrote it.
    pub author: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Written by the user who chooses.
    pub mine: bool,
    /// The length of the value, in whatever unit is the same for all.
    pub length: u64,
    /// Its author is here now.
    pub online: bool,
}

/// A guess.
#[derive(Debug, Clone, PartialEq)]
pub struct Suggestion {
    /// The id of the version.
    pub id: String,
    /// How likely the user chooses it, above [`MIN_PROBABILITY`].
    pub probability: f64,
    /// Why, the weightiest first.
    pub reasons: Vec<Reason>,
}

/// A part of the guess.
#[derive(Debug, Clone, PartialEq)]
pub struct Reason {
    /// In words.
    pub text: String,
    /// How much it adds to the score of this version over the mean of the others; above 0.
    pub weight: f64,
}

/// Why stored knowledge cannot be used. It is a convenience: begin anew.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PredictorError {
    /// Not what [`Predictor::to_bytes`] writes.
    #[error("this is not a predictor's memory: {0}")]
    Unreadable(String),
    /// Written by a newer version.
    #[error("a predictor's memory of format {0} is not known here")]
    Format(u32),
}

/// What was learned about one user.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Predictor {
    everywhere: Habit,
    fields: BTreeMap<String, Habit>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Habit {
    weights: Features,
    choices: u32,
    last_author: Option<String>,
    /// The number of all choices when this one was last used.
    used: u32,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    everywhere: Habit,
    fields: BTreeMap<String, Habit>,
}

impl Predictor {
    /// Knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Learns that of these versions of `field` the user chose the one with id `chosen`. Without alternatives, or if
    /// `chosen` is none of them, nothing is learned.
    pub fn learn(&mut self, field: &str, candidates: &[Candidate], chosen: &str) {
        let Some(index) = candidates.iter().position(|candidate| candidate.id == chosen) else { return };
        if candidates.len() < 2 {
            return;
        }
        let features = self.features(field, candidates);
        let chances = self.chances(field, &features);
        let mut step = features[index];
        for (features, chance) in features.iter().zip(&chances) {
            for (step, feature) in step.iter_mut().zip(features) {
                *step -= chance * feature;
            }
        }
        let now = self.everywhere.choices.saturating_add(1);
        let author = &candidates[index].author;
        self.everywhere.learn(&step, author, now);
        self.fields.entry(field.to_owned()).or_default().learn(&step, author, now);
        if self.fields.len() > MAX_FIELDS {
            let oldest = self.fields.iter().min_by_key(|(_, habit)| habit.used).map(|(name, _)| name.clone());
            oldest.and_then(|name| self.fields.remove(&name));
        }
    }

    /// Which version the user will probably choose; nothing while there is too little to go by ([`MIN_FIELD_CHOICES`],
    /// [`MIN_CHOICES`], [`MIN_PROBABILITY`]).
    pub fn suggest(&self, field: &str, candidates: &[Candidate]) -> Option<Suggestion> {
        let field_choices = self.fields.get(field).map_or(0, |habit| habit.choices);
        if candidates.len() < 2 || (field_choices < MIN_FIELD_CHOICES && self.everywhere.choices < MIN_CHOICES) {
            return None;
        }
        let features = self.features(field, candidates);
        let chances = self.chances(field, &features);
        let (best, probability) =
            chances.iter().copied().enumerate().max_by(|(_, one), (_, other)| one.total_cmp(other))?;
        (probability > MIN_PROBABILITY).then(|| Suggestion {
            id: candidates[best].id.clone(),
            probability,
            reasons: self.reasons(field, &features, best),
        })
    }

    /// To be kept with the device's data: JSON.
    ///
    /// # Errors
    /// [`PredictorError::Unreadable`] if a weight is no number, which [`Predictor::learn`] does not make.
    pub fn to_bytes(&self) -> Result<Vec<u8>, PredictorError> {
        let stored = Stored { format: FORMAT, everywhere: self.everywhere.clone(), fields: self.fields.clone() };
        serde_json::to_vec(&stored).map_err(|error| PredictorError::Unreadable(error.to_string()))
    }

    /// What [`Predictor::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`PredictorError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PredictorError> {
        #[derive(Deserialize)]
        struct Header {
            format: u32,
        }
        let unreadable = |error: serde_json::Error| PredictorError::Unreadable(error.to_string());
        let Header { format } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if format != FORMAT {
            return Err(PredictorError::Format(format));
        }
        let Stored { everywhere, fields, .. } = serde_json::from_slice(bytes).map_err(unreadable)?;
        Ok(Self { everywhere, fields })
    }

    fn weights(&self, field: &str) -> Features {
        let mut weights = self.everywhere.weights;
        for (weight, own) in
            weights.iter_mut().zip(self.fields.get(field).map_or([0.0; FEATURES], |habit| habit.weights))
        {
            *weight += own;
        }
        weights
    }

    /// 1 for what is true of one candidate and not of all.
    fn features(&self, field: &str, candidates: &[Candidate]) -> Vec<Features> {
        let newest = candidates.iter().map(|candidate| candidate.at_ms).max();
        let longest = candidates.iter().map(|candidate| candidate.length).max();
        let habit = self.fields.get(field).unwrap_or(&self.everywhere);
        let truth = |flag: bool| if flag { 1.0 } else { 0.0 };
        candidates
            .iter()
            .map(|candidate| {
                [
                    truth(Some(candidate.at_ms) == newest),
                    truth(candidate.mine),
                    truth(Some(candidate.length) == longest),
                    truth(habit.last_author.as_ref() == Some(&candidate.author)),
                    truth(candidate.online),
                ]
            })
            .collect()
    }

    fn chances(&self, field: &str, features: &[Features]) -> Vec<f64> {
        let weights = self.weights(field);
        let scores: Vec<f64> = features.iter().map(|features| dot(&weights, features)).collect();
        // Less the greatest, or exp would overflow.
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.into_iter().map(|power| power / sum).collect()
    }

    fn reasons(&self, field: &str, features: &[Features], best: usize) -> Vec<Reason> {
        let weights = self.weights(field);
        let others = (features.len() - 1) as f64;
        let mut reasons: Vec<Reason> = (0..FEATURES)
            .filter_map(|feature| {
                let all: f64 = features.iter().map(|features| features[feature]).sum();
                let lead = features[best][feature] - (all - features[best][feature]) / others;
                let weight = weights[feature] * lead;
                let text = if lead > 0.0 { FOR[feature] } else { AGAINST[feature] };
                (weight > 0.0).then(|| Reason { text: text.to_owned(), weight })
            })
            .collect();
        reasons.sort_by(|one, other| other.weight.total_cmp(&one.weight));
        reasons
    }
}

impl Habit {
    fn learn(&mut self, step: &Features, author: &str, now: u32) {
        for (weight, step) in self.weights.iter_mut().zip(step) {
            *weight = *weight * (1.0 - DECAY) + LEARNING_RATE * step;
        }
        self.choices = self.choices.saturating_add(1);
        self.last_author = Some(author.to_owned());
        self.used = now;
    }
}

fn dot(one: &Features, other: &Features) -> f64 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: &str, author: &str, at_ms: u64, length: u64) -> Candidate {
        Candidate { id: id.to_owned(), author: author.to_owned(), at_ms, mine: author == "me", length, online: false }
    }

    /// Mine is older and longer in every second pair.
    fn pair(round: u64) -> [Candidate; 2] {
        let other = ["ann", "bob"][(round / 2 % 2) as usize];
        [candidate("mine", "me", 10, 5 + round % 2), candidate("other", other, 20, 5 + (round + 1) % 2)]
    }

    fn taught(field: &str, rounds: u64, chosen: &str) -> Predictor {
        let mut predictor = Predictor::new();
        for round in 0..rounds {
            predictor.learn(field, &pair(round), chosen);
        }
        predictor
    }

    #[test]
    fn nothing_is_suggested_without_evidence() {
        assert_eq!(Predictor::new().suggest("title", &pair(0)), None);
        assert_eq!(taught("title", 2, "mine").suggest("title", &pair(0)), None);
        assert!(taught("title", 3, "mine").suggest("title", &pair(0)).is_some());
        assert_eq!(taught("title", 4, "mine").suggest("body", &pair(0)), None);
        assert!(taught("title", 5, "mine").suggest("body", &pair(0)).is_some(), "habits carry over");
        assert_eq!(taught("title", 9, "mine").suggest("title", &pair(0)[..1]), None, "no choice, no guess");
        assert_eq!(taught("title", 9, "nobody"), Predictor::new());
    }

    #[test]
    fn someone_who_takes_their_own_version_is_understood_and_told_why() {
        let suggestion = taught("title", 10, "mine").suggest("title", &pair(0)).unwrap();
        assert_eq!(suggestion.id, "mine");
        assert!(suggestion.probability > 0.9, "{}", suggestion.probability);
        let texts: Vec<_> = suggestion.reasons.iter().map(|reason| reason.text.as_str()).collect();
        assert!(texts.contains(&"you tend to choose your own version"), "{texts:?}");
        assert!(texts.contains(&"you tend to choose the older version"), "{texts:?}");
        assert!(suggestion.reasons.is_sorted_by(|one, other| one.weight >= other.weight));
        assert!(suggestion.reasons.iter().all(|reason| reason.weight > 0.0));
    }

    #[test]
    fn someone_who_chooses_either_way_gets_no_suggestion() {
        let mut predictor = Predictor::new();
        for round in 0..40 {
            // Neither age nor author nor length tells which.
            let chosen = if (round / 4) % 2 == 0 { "mine" } else { "other" };
            predictor.learn("title", &[candidate("mine", "a", 1, 1), candidate("other", "b", 1, 1)], chosen);
        }
        let unknown = [candidate("x", "c", 1, 1), candidate("y", "d", 1, 1)];
        assert_eq!(predictor.suggest("title", &unknown), None);
    }

    #[test]
    fn fields_have_habits_of_their_own() {
        let mut predictor = Predictor::new();
        for round in 0..12 {
            predictor.learn("title", &pair(round), "mine");
            predictor.learn("price", &pair(round), "other");
        }
        assert_eq!(predictor.suggest("title", &pair(0)).unwrap().id, "mine");
        assert_eq!(predictor.suggest("price", &pair(0)).unwrap().id, "other");
    }

    #[test]
    fn a_memory_comes_back_and_junk_does_not() {
        let predictor = taught("title", 7, "mine");
        assert_eq!(Predictor::from_bytes(&predictor.to_bytes().unwrap()), Ok(predictor));
        assert!(matches!(Predictor::from_bytes(b"junk"), Err(PredictorError::Unreadable(_))));
        assert_eq!(Predictor::from_bytes(br#"{"format":2}"#), Err(PredictorError::Format(2)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut predictor = Predictor::new();
        for field in 0..MAX_FIELDS + 10 {
            predictor.learn(&format!("{field}"), &pair(0), "mine");
        }
        assert_eq!(predictor.fields.len(), MAX_FIELDS);
        assert!(predictor.fields.contains_key(&format!("{}", MAX_FIELDS + 9)));
        assert!(!predictor.fields.contains_key("0"));
    }
}
