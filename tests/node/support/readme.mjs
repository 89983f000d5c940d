// The commands and examples of README.md, and a way to run a command unchanged.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

export const ROOT = fileURLToPath(new URL('../../..', import.meta.url))
/** The address in every example; tests replace it by that of their server. */
export const PRINTED_URL = 'ws://127.0.0.1:1234'

const README = readFileSync(new URL('../../../README.md', import.meta.url), 'utf8')
const BLOCKS = [...README.matchAll(/^```(\w+)\n(.*?)^```$/gms)].map(([, language, text]) => ({ language, text }))

/** The code blocks of a language, in order. */
export function blocks(language) {
  return BLOCKS.filter((block) => block.language === language).map(({ text }) => text)
}

/** The shell block before the nth JavaScript block: its npm install line. */
export function installLine(number) {
  const at = BLOCKS.findIndex((block) => block.text === blocks('js')[number])
  assert.equal(BLOCKS[at - 1]?.language, 'sh', 'each example follows its npm install line')
  return BLOCKS[at - 1].text.trim()
}

/** Every command in README: the lines of shell blocks, and inline code that begins with `cargo`. */
export function commands() {
  const lines = blocks('sh').flatMap((text) => text.trim().split('\n'))
  const inline = [...README.replaceAll(/^```.*?^```$/gms, '').matchAll(/`(cargo [^`]+)`/g)].map((match) => match[1])
  return [...new Set([...lines, ...inline])]
}

/** Starts a command in a shell, unchanged, without the developer's own Syncline environment variables. */
export function start(command, { cwd = ROOT, env = {} } = {}) {
  const clean = Object.entries(process.env).filter(([key]) => !/^SYNCLINE_|^RUST_LOG$|^NODE_OPTIONS$/.test(key))
  const child = spawn('bash', ['-c', command], {
    cwd,
    env: { ...Object.fromEntries(clean), CARGO_TERM_COLOR: 'never', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  })
  let output = ''
  let onOutput = () => {}
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8')
    stream.on('data', (text) => {
      output += text
      onOutput()
    })
  }
  const ended = new Promise((resolve) => child.on('close', (code, signal) => resolve(signal ?? code)))
  const kill = (signal) => {
    if (child.exitCode !== null || child.signalCode !== null) return
    // Signal the whole process group: the shell, cargo and the program.
    process.kill(-child.pid, signal)
  }
  process.on('exit', () => kill('SIGKILL'))
  return {
    output: () => output,
    ended,
    /** Resolves with the match when `pattern` has been printed. */
    printed: (pattern) =>
      new Promise((resolve, reject) => {
        const previous = onOutput
        onOutput = () => {
          previous()
          const match = output.match(pattern)
          if (match) resolve(match)
        }
        onOutput()
        ended.then((how) => reject(new Error(`\`${command}\` ended with ${how} and did not print ${pattern}:\n${output}`)))
      }),
    /** Sends the signal and waits for the exit. */
    async stop(signal = 'SIGTERM') {
      kill(signal)
      return ended
    },
  }
}

/** Runs a command that must exit with 0. Resolves to its output. */
export async function run(command, options) {
  const running = start(command, options)
  const how = await running.ended
  assert.equal(how, 0, `\`${command}\` ended with ${how}:\n${running.output()}`)
  return running.output()
}

/** Runs a long command for up to `limitMs`: it must exit with 0 before that, or still be running. */
export async function runFor(limitMs, command, options) {
  const running = start(command, options)
  await running.printed(/^ +Running `/m)
  const how = await Promise.race([running.ended, new Promise((resolve) => setTimeout(resolve, limitMs, 'runs'))])
  assert.ok(how === 0 || how === 'runs', `\`${command}\` ended with ${how}:\n${running.output()}`)
  await running.stop('SIGINT')
}
