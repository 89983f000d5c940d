// Reads and writes single frames of both dialects. Reading is strict: a frame holds exactly one message.

import * as decoding from 'lib0/decoding'
import * as encoding from 'lib0/encoding'

const SYNC_KINDS = ['step1', 'step2', 'update']

/** `{kind, payload}` of a y-websocket frame. Throws unless the message fills the frame. */
export function readYWebsocket(frame) {
  return readWhole(frame, (decoder) => {
    const type = decoding.readVarUint(decoder)
    switch (type) {
      case 0:
        return readSync(decoder)
      case 1:
        return { kind: 'awareness', payload: decoding.readVarUint8Array(decoder) }
      case 2:
        if (decoding.readVarUint(decoder) !== 0) throw new Error('an auth message that is not a denial')
        return { kind: 'denied', reason: decoding.readVarString(decoder) }
      case 3:
        return { kind: 'queryAwareness' }
      default:
        throw new Error(`y-websocket type ${type}`)
    }
  })
}

/** `{address, kind, ...}` of a Hocuspocus frame that a server sent. Throws unless the message fills the frame. */
export function readHocuspocus(frame) {
  if (frame.length === 1 && frame[0] === 9) return { kind: 'ping' }
  if (frame.length === 1 && frame[0] === 10) return { kind: 'pong' }
  return readWhole(frame, (decoder) => {
    const address = decoding.readVarString(decoder)
    return { address, ...readAddressed(decoder) }
  })
}

function readAddressed(decoder) {
  const type = decoding.readVarUint(decoder)
  switch (type) {
    case 0:
      return readSync(decoder)
    case 1:
      return { kind: 'awareness', payload: decoding.readVarUint8Array(decoder) }
    case 2: {
      const verdict = decoding.readVarUint(decoder)
      if (verdict === 0) return { kind: 'tokenWanted' }
      const text = decoding.readVarString(decoder)
      if (verdict === 1) return { kind: 'denied', reason: text }
      if (verdict === 2) return { kind: 'authenticated', scope: text }
      throw new Error(`auth message ${verdict}`)
    }
    case 3:
      return { kind: 'queryAwareness' }
    case 4:
      return readSync(decoder)
    case 5:
      return { kind: 'stateless', text: decoding.readVarString(decoder) }
    case 7:
      return { kind: 'close', reason: decoding.readVarString(decoder) }
    case 8:
      return { kind: 'status', saved: decoding.readVarInt(decoder) === 1 }
    default:
      throw new Error(`Hocuspocus type ${type}`)
  }
}

function readSync(decoder) {
  const kind = SYNC_KINDS[decoding.readVarUint(decoder)]
  if (!kind) throw new Error('unknown sync message')
  return { kind, payload: decoding.readVarUint8Array(decoder) }
}

function readWhole(frame, read) {
  const decoder = decoding.createDecoder(frame)
  const message = read(decoder)
  if (decoding.hasContent(decoder)) {
    throw new Error(`${frame.length - decoder.pos} bytes follow the ${message.kind} message in its frame`)
  }
  return message
}

/** The sync part of a frame that a client sends in either dialect, or null: `{kind, payload}`. */
export function syncSentBy(dialect, frame) {
  const decoder = decoding.createDecoder(frame)
  if (dialect === 'hocuspocus') {
    if (frame.length === 1) return null
    decoding.readVarString(decoder)
  }
  const type = decoding.readVarUint(decoder)
  return type === 0 || (type === 4 && dialect === 'hocuspocus') ? readSync(decoder) : null
}

/** Frames of the y-websocket dialect. */
export const yWebsocket = {
  step1: (stateVector) => bytes(0, 0, buffer(stateVector)),
  step2: (update) => bytes(0, 1, buffer(update)),
  update: (update) => bytes(0, 2, buffer(update)),
  awareness: (update) => bytes(1, buffer(update)),
  queryAwareness: () => bytes(3),
}

/** Frames of the Hocuspocus dialect; `address` is the name, or name NUL session. */
export const hocuspocus = {
  auth: (address, token = '') => bytes(text(address), 2, 0, text(token), text('4.8.0')),
  step1: (address, stateVector) => bytes(text(address), 0, 0, buffer(stateVector)),
  step2: (address, update) => bytes(text(address), 0, 1, buffer(update)),
  update: (address, update) => bytes(text(address), 0, 2, buffer(update)),
  awareness: (address, update) => bytes(text(address), 1, buffer(update)),
  queryAwareness: (address) => bytes(text(address), 3),
  close: (address) => bytes(text(address), 7),
  ping: () => bytes(9),
}

/** Joins numbers (as varUint) and byte arrays. */
export function bytes(...parts) {
  return join(parts)
}

/** The same for a list of any length. */
export function join(parts) {
  const encoder = encoding.createEncoder()
  for (const part of parts) {
    if (typeof part === 'number') encoding.writeVarUint(encoder, part)
    else encoding.writeUint8Array(encoder, part)
  }
  return encoding.toUint8Array(encoder)
}

/** The length and the bytes. */
export function buffer(content) {
  const encoder = encoding.createEncoder()
  encoding.writeVarUint8Array(encoder, Uint8Array.from(content))
  return encoding.toUint8Array(encoder)
}

/** The length and the UTF-8 bytes. */
export function text(content) {
  return buffer(new TextEncoder().encode(content))
}
