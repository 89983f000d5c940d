//! Predicts which of several versions a user will choose, from earlier choices, and gives the reasons.
//!
//! The model is a conditional logit, trained online: the score of a version is the sum of the weights of its features,
//! the probability of a choice is the softmax of the scores, and each choice moves the weights along the gradient. Beta
//! counts per feature would be simpler, but "newer" and "longer" are often both true, and counting both would count
//! one habit twice; the gradient divides the credit. There is one set of weights per field and one for all fields, and
//! they are added: a new field starts with the user's general habits. There is no randomness and the order of the
//! arithmetic is fixed: the same choices always give the same suggestions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Number of choices in a field before it gets suggestions, unless [`MIN_CHOICES`] is reached.
pub const MIN_FIELD_CHOICES: u32 = 3;
/// Number of choices in all fields together before any field gets suggestions.
pub const MIN_CHOICES: u32 = 5;
/// A version is suggested only if its probability is greater than this.
pub const MIN_PROBABILITY: f64 = 0.6;
/// Number of fields kept; beyond it the least recently used field is dropped.
pub const MAX_FIELDS: usize = 1_000;

/// Step size of one choice. Large, because users make few choices and expect suggestions soon.
const LEARNING_RATE: f64 = 0.5;
/// Fraction by which each choice reduces all weights: habits change, and weights must stay bounded.
const DECAY: f64 = 0.02;
/// Version of the format of [`Predictor::to_bytes`].
const FORMAT: u32 = 1;

const FEATURES: usize = 5;
type Features = [f64; FEATURES];
/// Reason texts for a feature that is true of the suggested version.
const FOR: [&str; FEATURES] = [
    "you tend to choose the newer version",
    "you tend to choose your own version",
    "you tend to choose the longer version",
    "you chose this author last time",
    "you tend to choose an author who is online",
];
/// Reason texts for a feature that is not true of the suggested version.
const AGAINST: [&str; FEATURES] = [
    "you tend to choose the older version",
    "you tend to choose the version of others",
    "you tend to choose the shorter version",
    "you tend to alternate between authors",
    "you tend to choose an author who is offline",
];

/// A version that the user can choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Id of the version, unique among the candidates.
    pub id: String,
    /// The author of the version.
    pub author: String,
    /// The time of the write, in milliseconds since 1970.
    pub at_ms: u64,
    /// True if the choosing user wrote it.
    pub mine: bool,
    /// Length of the value, in any unit that is the same for all candidates.
    pub length: u64,
    /// True if its author is online.
    pub online: bool,
}

/// A predicted choice.
#[derive(Debug, Clone, PartialEq)]
pub struct Suggestion {
    /// Id of the suggested version.
    pub id: String,
    /// Probability that the user chooses it, greater than [`MIN_PROBABILITY`].
    pub probability: f64,
    /// The reasons, greatest weight first.
    pub reasons: Vec<Reason>,
}

/// One reason for a suggestion.
#[derive(Debug, Clone, PartialEq)]
pub struct Reason {
    /// An English sentence for the user.
    pub text: String,
    /// How much it raises the score of this version above the mean of the others; greater than 0.
    pub weight: f64,
}

/// Why a stored predictor cannot be read. Start with [`Predictor::new`] then: only suggestions are lost.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PredictorError {
    /// The bytes were not written by [`Predictor::to_bytes`].
    #[error("the stored predictor is invalid: {0}")]
    Unreadable(String),
    /// The format is not known; a newer version of the library wrote it.
    #[error("the stored predictor has unknown format {0}; was it written by a newer version?")]
    Format(u32),
}

/// The learned habits of one user.
///
/// ```
/// use syncline_client::types::predictor::{Candidate, Predictor};
///
/// let version = |id: &str, mine| {
///     Candidate { id: id.into(), author: id.into(), at_ms: 0, mine, length: 5, online: false }
/// };
/// let versions = [version("ana", false), version("ben", true)];
/// let mut habits = Predictor::new();
/// assert_eq!(habits.suggest("title", &versions), None);
/// for _ in 0..5 {
///     habits.learn("title", &versions, "ana");
/// }
/// assert_eq!(habits.suggest("title", &versions).unwrap().id, "ana");
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Predictor {
    /// Habits over all fields.
    everywhere: Habit,
    fields: BTreeMap<String, Habit>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Habit {
    weights: Features,
    choices: u32,
    last_author: Option<String>,
    /// The total number of choices when this field was last used.
    used: u32,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    everywhere: Habit,
    fields: BTreeMap<String, Habit>,
}

impl Predictor {
    /// Creates a predictor that has learned nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Learns that the user chose the version with id `chosen` among these versions of `field`. With fewer than two
    /// candidates, or if `chosen` is not one of them, nothing is learned.
    pub fn learn(&mut self, field: &str, candidates: &[Candidate], chosen: &str) {
        let Some(index) = candidates.iter().position(|candidate| candidate.id == chosen) else { return };
        if candidates.len() < 2 {
            return;
        }
        let features = self.features(field, candidates);
        let probabilities = self.probabilities(field, &features);
        let mut step = features[index];
        for (features, probability) in features.iter().zip(&probabilities) {
            for (step, feature) in step.iter_mut().zip(features) {
                *step -= probability * feature;
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

    /// Returns the version that the user will probably choose. `None` if there is too little evidence; see
    /// [`MIN_FIELD_CHOICES`], [`MIN_CHOICES`] and [`MIN_PROBABILITY`].
    pub fn suggest(&self, field: &str, candidates: &[Candidate]) -> Option<Suggestion> {
        let field_choices = self.fields.get(field).map_or(0, |habit| habit.choices);
        if candidates.len() < 2 || (field_choices < MIN_FIELD_CHOICES && self.everywhere.choices < MIN_CHOICES) {
            return None;
        }
        let features = self.features(field, candidates);
        let probabilities = self.probabilities(field, &features);
        let (best, probability) =
            probabilities.iter().copied().enumerate().max_by(|(_, one), (_, other)| one.total_cmp(other))?;
        (probability > MIN_PROBABILITY).then(|| Suggestion {
            id: candidates[best].id.clone(),
            probability,
            reasons: self.reasons(field, &features, best),
        })
    }

    /// Encodes the predictor as JSON, for the app to store on the device.
    ///
    /// # Errors
    /// [`PredictorError::Unreadable`] if a weight is not finite, which [`Predictor::learn`] never produces.
    pub fn to_bytes(&self) -> Result<Vec<u8>, PredictorError> {
        let stored = Stored { format: FORMAT, everywhere: self.everywhere.clone(), fields: self.fields.clone() };
        serde_json::to_vec(&stored).map_err(|error| PredictorError::Unreadable(error.to_string()))
    }

    /// Decodes the output of [`Predictor::to_bytes`].
    ///
    /// # Errors
    /// [`PredictorError`] if the bytes are invalid or have an unknown format.
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

    /// Returns the features of each candidate: 1 if true, 0 if not.
    fn features(&self, field: &str, candidates: &[Candidate]) -> Vec<Features> {
        let newest = candidates.iter().map(|candidate| candidate.at_ms).max();
        let longest = candidates.iter().map(|candidate| candidate.length).max();
        let habit = self.fields.get(field).unwrap_or(&self.everywhere);
        let as_feature = |flag: bool| if flag { 1.0 } else { 0.0 };
        candidates
            .iter()
            .map(|candidate| {
                [
                    as_feature(Some(candidate.at_ms) == newest),
                    as_feature(candidate.mine),
                    as_feature(Some(candidate.length) == longest),
                    as_feature(habit.last_author.as_ref() == Some(&candidate.author)),
                    as_feature(candidate.online),
                ]
            })
            .collect()
    }

    fn probabilities(&self, field: &str, features: &[Features]) -> Vec<f64> {
        let weights = self.weights(field);
        let scores: Vec<f64> = features.iter().map(|features| dot(&weights, features)).collect();
        // Subtract the greatest score, or exp would overflow.
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

    /// Returns two versions. Mine is the older one, and the longer one in every second pair.
    fn pair(round: u64) -> [Candidate; 2] {
        let other = ["ann", "bob"][(round / 2 % 2) as usize];
        [candidate("mine", "me", 10, 5 + round % 2), candidate("other", other, 20, 5 + (round + 1) % 2)]
    }

    fn trained(field: &str, rounds: u64, chosen: &str) -> Predictor {
        let mut predictor = Predictor::new();
        for round in 0..rounds {
            predictor.learn(field, &pair(round), chosen);
        }
        predictor
    }

    #[test]
    fn nothing_is_suggested_without_evidence() {
        assert_eq!(Predictor::new().suggest("title", &pair(0)), None);
        assert_eq!(trained("title", 2, "mine").suggest("title", &pair(0)), None);
        assert!(trained("title", 3, "mine").suggest("title", &pair(0)).is_some());
        assert_eq!(trained("title", 4, "mine").suggest("body", &pair(0)), None);
        assert!(trained("title", 5, "mine").suggest("body", &pair(0)).is_some(), "habits carry over");
        assert_eq!(trained("title", 9, "mine").suggest("title", &pair(0)[..1]), None, "one candidate is not a choice");
        assert_eq!(trained("title", 9, "nobody"), Predictor::new());
    }

    #[test]
    fn habit_of_choosing_own_versions_is_learned_with_reasons() {
        let suggestion = trained("title", 10, "mine").suggest("title", &pair(0)).unwrap();
        assert_eq!(suggestion.id, "mine");
        assert!(suggestion.probability > 0.9, "{}", suggestion.probability);
        let texts: Vec<_> = suggestion.reasons.iter().map(|reason| reason.text.as_str()).collect();
        assert!(texts.contains(&"you tend to choose your own version"), "{texts:?}");
        assert!(texts.contains(&"you tend to choose the older version"), "{texts:?}");
        assert!(suggestion.reasons.is_sorted_by(|one, other| one.weight >= other.weight));
        assert!(suggestion.reasons.iter().all(|reason| reason.weight > 0.0));
    }

    #[test]
    fn inconsistent_choices_give_no_suggestion() {
        let mut predictor = Predictor::new();
        for round in 0..40 {
            // Neither age nor author nor length predicts the choice.
            let chosen = if (round / 4) % 2 == 0 { "mine" } else { "other" };
            predictor.learn("title", &[candidate("mine", "a", 1, 1), candidate("other", "b", 1, 1)], chosen);
        }
        let unknown = [candidate("x", "c", 1, 1), candidate("y", "d", 1, 1)];
        assert_eq!(predictor.suggest("title", &unknown), None);
    }

    #[test]
    fn fields_have_separate_habits() {
        let mut predictor = Predictor::new();
        for round in 0..12 {
            predictor.learn("title", &pair(round), "mine");
            predictor.learn("price", &pair(round), "other");
        }
        assert_eq!(predictor.suggest("title", &pair(0)).unwrap().id, "mine");
        assert_eq!(predictor.suggest("price", &pair(0)).unwrap().id, "other");
    }

    #[test]
    fn predictor_roundtrips_and_invalid_bytes_are_rejected() {
        let predictor = trained("title", 7, "mine");
        assert_eq!(Predictor::from_bytes(&predictor.to_bytes().unwrap()), Ok(predictor));
        assert!(matches!(Predictor::from_bytes(b"junk"), Err(PredictorError::Unreadable(_))));
        assert_eq!(Predictor::from_bytes(br#"{"format":2}"#), Err(PredictorError::Format(2)));
    }

    #[test]
    fn number_of_fields_is_bounded() {
        let mut predictor = Predictor::new();
        for field in 0..MAX_FIELDS + 10 {
            predictor.learn(&format!("{field}"), &pair(0), "mine");
        }
        assert_eq!(predictor.fields.len(), MAX_FIELDS);
        assert!(predictor.fields.contains_key(&format!("{}", MAX_FIELDS + 9)));
        assert!(!predictor.fields.contains_key("0"));
    }
}
