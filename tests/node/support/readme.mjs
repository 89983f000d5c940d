// README.md, read as a newcomer reads it: what it prints to be copied, and a way to run a command as it stands.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

export const ROOT = fileURLToPath(new URL('../../..', import.meta.url))
/** The address in every example; tests put a server's own in its place. */
export const PRINTED_URL = 'ws://127.0.0.1:1234'

const README = readFileSync(new URL('../../../README.md', import.meta.url), 'utf8')
const BLOCKS = [...README.matchAll(/^```(\w+)\n(.*?)^```$/gms)].map(([, language, text]) => ({ language, text }))

/** The code blocks of a language, in order. */
export function blocks(language) {
  return BLOCKS.filter((block) => block.language === language).map(({ text }) => text)
}

/** The shell block that is followed by the nth JavaScript block: what that needs. */
export function installLine(number) {
  const at = BLOCKS.findIndex((block) => block.text === blocks('js')[number])
  assert.equal(BLOCKS[at - 1]?.language, 'sh', 'each example has its npm install line before it')
  return BLOCKS[at - 1].text.trim()
}

/** Every command that README prints: the lines of shell blocks, and what begins with `cargo` within a line. */
export function commands() {
  const lines = blocks('sh').flatMap((text) => text.trim().split('\n'))
  const inline = [...README.replaceAll(/^```.*?^```$/gms, '').matchAll(/`(cargo [^`]+)`/g)].map((match) => match[1])
  return [...new Set([...lines, ...inline])]
}

/** Starts a command in a shell, as it stands. Nothing that a developer has set for Syncline reaches it. */
export function start(command, { cwd = ROOT, env = {} } = {}) {
  const clean = Object.entries(process.env).filter(([key]) => !/^SYNCLINE_|^RUST_LOG$|^NODE_OPTIONS$/.test(key))
  const child = spawn('bash', ['-c', command], {
    cwd,
    env: { ...Object.fromEntries(clean), CARGO_TERM_COLOR: 'never', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  })
  let output = ''
  let look = () => {}
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8')
    stream.on('data', (text) => {
      output += text
      look()
    })
  }
  const ended = new Promise((resolve) => child.on('close', (code, signal) => resolve(signal ?? code)))
  const kill = (signal) => {
    if (child.exitCode !== null || child.signalCode !== null) return
    // The whole group: what the shell, cargo and the program have started.
    process.kill(-child.pid, signal)
  }
  process.on('exit', () => kill('SIGKILL'))
  return {
    output: () => output,
    ended,
    /** Resolves with the match when `pattern` has been printed. */
    printed: (pattern) =>
      new Promise((resolve, reject) => {
        const before = look
        look = () => {
          before()
          const match = output.match(pattern)
          if (match) resolve(match)
        }
        look()
        ended.then((how) => reject(new Error(`\`${command}\` ended with ${how} and did not print ${pattern}:\n${output}`)))
      }),
    /** Asks it to end, and waits until it has. */
    async stop(signal = 'SIGTERM') {
      kill(signal)
      return ended
    },
  }
}

/** Runs a command to its end, which must be a good one. Resolves to what it printed. */
export async function run(command, options) {
  const running = start(command, options)
  const how = await running.ended
  assert.equal(how, 0, `\`${command}\` ended with ${how}:\n${running.output()}`)
  return running.output()
}

/** Lets a command that takes long work for a while. It ends well before that, or does not end. */
export async function runFor(limitMs, command, options) {
  const running = start(command, options)
  await running.printed(/^ +Running `/m)
  const how = await Promise.race([running.ended, new Promise((resolve) => setTimeout(resolve, limitMs, 'runs'))])
  assert.ok(how === 0 || how === 'runs', `\`${command}\` ended with ${how}:\n${running.output()}`)
  await running.stop('SIGINT')
}
