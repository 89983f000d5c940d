// Runs the server binary: one process per server, each with a data directory of its own that is removed after the tests.

import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The binary under test: `SYNCLINE_BIN`, or the debug build of this repository. */
export const BINARY = resolve(
  process.env.SYNCLINE_BIN ?? fileURLToPath(new URL('../../../target/debug/syncline', import.meta.url)),
)

const START_LIMIT_MS = 20_000
const STOP_LIMIT_MS = 20_000
/** The environment without the developer's own Syncline settings. */
const CLEAN_ENV = Object.fromEntries(
  Object.entries(process.env).filter(([key]) => !key.startsWith('SYNCLINE_') && key !== 'RUST_LOG'),
)

const children = new Set()
const directories = new Set()

process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL')
  for (const directory of directories) rmSync(directory, { recursive: true, force: true })
})
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1))

/** An empty directory that is removed when this process ends. */
export function temporaryDirectory() {
  const directory = mkdtempSync(join(tmpdir(), 'syncline-test-'))
  directories.add(directory)
  return directory
}

/**
 * Starts `syncline serve` and resolves when it reports that it is ready.
 *
 * - `args`: more arguments for `serve`; `env`: more environment.
 * - `listen`: the address; `dataDir`: serve this directory instead of a fresh one; `keepData`: do not remove it after the tests.
 */
export async function startServer({ args = [], env = {}, dataDir, keepData = false, listen = '127.0.0.1:0' } = {}) {
  const directory = dataDir ?? temporaryDirectory()
  if (keepData) directories.delete(directory)
  const server = new ServerProcess(directory, args, env)
  await server.start(listen)
  return server
}

/** Runs the binary with any arguments until it exits. Resolves to `{code, signal, stdout, stderr}`. */
export async function runBinary(args, { env = {}, cwd } = {}) {
  const child = spawnBinary(args, { env, cwd })
  const stdout = collect(child.stdout)
  const stderr = collect(child.stderr)
  const { code, signal } = await ended(child, `syncline ${args.join(' ')}`)
  return { code, signal, stdout: stdout(), stderr: stderr() }
}

class ServerProcess {
  #args
  #env
  #child
  #ended
  #output = ''

  constructor(dataDir, args, env) {
    this.dataDir = dataDir
    this.#args = args
    this.#env = env
  }

  get pid() {
    return this.#child.pid
  }

  get url() {
    return `ws://127.0.0.1:${this.port}`
  }

  get httpUrl() {
    return `http://127.0.0.1:${this.port}`
  }

  get isRunning() {
    return this.#child.exitCode === null && this.#child.signalCode === null
  }

  /** All output so far, including that before restarts. */
  output() {
    return this.#output
  }

  async start(listen) {
    const args = ['serve', '--listen', listen, '--data', this.dataDir, ...this.#args]
    const child = spawnBinary(args, { env: this.#env })
    this.#child = child
    let stdout = ''
    child.stderr.on('data', (bytes) => (this.#output += bytes))
    const port = new Promise((found) => {
      child.stdout.on('data', (bytes) => {
        stdout += bytes
        this.#output += bytes
        const address =
          stdout.match(/^Syncline \S+ is ready\.$[^]*^ +editors connect to +ws:\/\/127\.0\.0\.1:(\d+)\S*$/m) ??
          stdout.match(/^\{.*"editors":"ws:\/\/127\.0\.0\.1:(\d+)[^"]*".* is ready"/m)
        if (address) found(Number(address[1]))
      })
    })
    this.#ended = ended(child)
    const failed = Promise.race([
      this.#ended.then(({ code, signal }) => `it exited with ${signal ?? code}`),
      delay(START_LIMIT_MS).then(() => `it was not ready after ${START_LIMIT_MS} ms`),
    ]).then((why) => {
      throw new Error(`the server did not start: ${why}\n${this.#output}`)
    })
    failed.catch(() => {})
    this.port = await Promise.race([port, failed])
  }

  /** Resolves to `{code, signal}` when the process has exited. */
  ended() {
    return this.#ended
  }

  /** Stops the server with a signal, as a service manager does. Resolves to `{code, signal}`. */
  async stop(signal = 'SIGTERM') {
    if (!this.isRunning) return this.#ended
    this.#child.kill(signal)
    const late = delay(STOP_LIMIT_MS).then(() => {
      this.#child.kill('SIGKILL')
      throw new Error(`the server did not stop within ${STOP_LIMIT_MS} ms of ${signal}\n${this.#output}`)
    })
    late.catch(() => {})
    return Promise.race([this.#ended, late])
  }

  /** kill -9: the signal is sent before this returns. Resolves when the process has exited. */
  kill() {
    if (this.isRunning) this.#child.kill('SIGKILL')
    return this.#ended
  }

  /** Starts it again with the same data on the same port, so that clients reconnect. Stops it first if it is running. */
  async restart() {
    await this.stop()
    await this.start(`127.0.0.1:${this.port}`)
  }

  /** Peak memory of the process since `resetPeakMemory`, in bytes. */
  peakMemory() {
    const status = readFileSync(`/proc/${this.pid}/status`, 'utf8')
    return Number(status.match(/^VmHWM:\s+(\d+) kB$/m)[1]) * 1024
  }

  /** Resets the peak to the current memory, and returns it. */
  resetPeakMemory() {
    writeFileSync(`/proc/${this.pid}/clear_refs`, '5')
    return this.peakMemory()
  }
}

function spawnBinary(args, { env, cwd }) {
  const child = spawn(BINARY, args, { cwd, env: { ...CLEAN_ENV, ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
  child.stdout.setEncoding('utf8')
  child.stderr.setEncoding('utf8')
  children.add(child)
  child.once('close', () => children.delete(child))
  return child
}

function collect(stream) {
  let text = ''
  stream.on('data', (part) => (text += part))
  return () => text
}

function ended(child, what) {
  return new Promise((done, fail) => {
    child.once('error', (error) => fail(new Error(`cannot run ${BINARY}: ${error.message}`)))
    child.once('close', (code, signal) => done({ code, signal }))
    if (what) {
      const timer = setTimeout(() => {
        child.kill('SIGKILL')
        fail(new Error(`${what} did not exit within ${STOP_LIMIT_MS} ms`))
      }, STOP_LIMIT_MS)
      child.once('close', () => clearTimeout(timer))
    }
  })
}

function delay(ms) {
  return new Promise((done) => setTimeout(done, ms).unref())
}
