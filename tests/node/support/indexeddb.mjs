// Replaces npm `y-indexeddb` in Node processes that tests kill: appends every update of a document to a file and syncs it to
// disk before it is sent, loads the file at start, and compacts it from time to time.
//
// The package itself is unsuitable: with npm `fake-indexeddb` (6.2.8) the database is in memory and is lost with the process
// that the tests kill; `indexeddbshim` is durable but needs a native SQLite. This class has the package's interface (9.0.12:
// `whenSynced`, `synced`, `destroy`, `clearData`, trimming after 500 updates, remote updates stored like local ones) and is
// stricter in one way: the package stores in the background, this class stores before `transact` returns.

import {
  closeSync,
  existsSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs'
import { dirname } from 'node:path'
import { crc32 } from 'node:zlib'
import { Observable } from 'lib0/observable'
import * as Y from 'yjs'

/** Number of updates after which the file is compacted, as in y-indexeddb. */
const TRIM_SIZE = 500
/** Header of each record: the length of the update and its CRC-32. */
const HEADER_BYTES = 8

/** Stores `doc` in the file at `path`. Emits `synced` when the content of the file is in the document. */
export class FilePersistence extends Observable {
  #file = null
  #stored = 0

  constructor(path, doc) {
    super()
    this.path = path
    this.doc = doc
    this.synced = false
    this.destroy = this.destroy.bind(this)
    this.storeUpdate = (update, origin) => {
      if (this.#file !== null && origin !== this) this.#append(update)
    }
    doc.on('update', this.storeUpdate)
    doc.on('destroy', this.destroy)
    // As with a database, loading takes at least one turn of the event loop.
    this.whenSynced = new Promise((resolve, reject) => setImmediate(() => this.#load(resolve, reject)))
    this.whenSynced.catch(() => {})
  }

  #load(resolve, reject) {
    if (this.isDestroyed) return resolve(this)
    try {
      const { updates, goodBytes } = existsSync(this.path) ? readRecords(readFileSync(this.path)) : readRecords(Buffer.of())
      this.#file = openSync(this.path, 'a')
      // Drop an incomplete record: the process was killed during the write, before the update was sent.
      ftruncateSync(this.#file, goodBytes)
      fsyncSync(this.#file)
      syncDirectoryOf(this.path)
      this.#stored = updates.length
      const early = Y.encodeStateAsUpdate(this.doc)
      Y.transact(this.doc, () => updates.forEach((update) => Y.applyUpdate(this.doc, update)), this, false)
      // Edits made before the file was loaded.
      if (early.length > 2) this.#append(early)
    } catch (error) {
      return reject(error)
    }
    this.synced = true
    this.emit('synced', [this])
    resolve(this)
  }

  #append(update) {
    writeFully(this.#file, record(update))
    fsyncSync(this.#file)
    if (++this.#stored >= TRIM_SIZE) this.#compact()
  }

  #compact() {
    const fresh = `${this.path}.new`
    const file = openSync(fresh, 'w')
    writeFully(file, record(Y.encodeStateAsUpdate(this.doc)))
    fsyncSync(file)
    renameSync(fresh, this.path)
    syncDirectoryOf(this.path)
    closeSync(this.#file)
    this.#file = file
    this.#stored = 1
  }

  /** Stops storing and keeps the file. */
  destroy() {
    this.isDestroyed = true
    this.doc.off('update', this.storeUpdate)
    this.doc.off('destroy', this.destroy)
    if (this.#file !== null) closeSync(this.#file)
    this.#file = null
    return Promise.resolve()
  }

  /** Stops storing and removes the file. */
  async clearData() {
    await this.destroy()
    rmSync(this.path, { force: true })
  }
}

/** The updates of a file up to the first incomplete record, and the number of bytes they take. */
function readRecords(bytes) {
  const updates = []
  let at = 0
  while (at + HEADER_BYTES <= bytes.length) {
    const length = bytes.readUInt32LE(at)
    const update = bytes.subarray(at + HEADER_BYTES, at + HEADER_BYTES + length)
    if (update.length < length || crc32(update) !== bytes.readUInt32LE(at + 4)) break
    updates.push(new Uint8Array(update))
    at += HEADER_BYTES + length
  }
  return { updates, goodBytes: at }
}

function record(update) {
  const header = Buffer.alloc(HEADER_BYTES)
  header.writeUInt32LE(update.length, 0)
  header.writeUInt32LE(crc32(update), 4)
  return Buffer.concat([header, update])
}

function writeFully(file, bytes) {
  for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at)
}

function syncDirectoryOf(path) {
  const directory = openSync(dirname(path), 'r')
  fsyncSync(directory)
  closeSync(directory)
}
