// A WebSocket for the Hocuspocus provider that counts what the server has not acknowledged on this very socket.
//
// `unsyncedChanges` alone can reach 0 too early: after a reconnect the provider sets it to 1, then sends every edit
// that it had queued while offline, and the first acknowledgement takes it to 0. Here each frame is counted as it leaves.

import * as decoding from 'lib0/decoding'

const SYNC = 0
const SYNC_STEP_2 = 1
const SYNC_UPDATE = 2
const SYNC_STATUS = 8

export function countingWebSocket(onChange: (owed: number) => void): typeof WebSocket {
  return class extends WebSocket {
    #owed = 0

    constructor(url: string | URL, protocols?: string | string[]) {
      super(url, protocols)
      onChange(0)
      this.addEventListener('message', ({ data }) => {
        if (data instanceof ArrayBuffer && acknowledges(new Uint8Array(data))) onChange(--this.#owed)
      })
    }

    override send(data: Parameters<WebSocket['send']>[0]) {
      super.send(data)
      if (data instanceof Uint8Array && carriesEdits(data)) onChange(++this.#owed)
    }
  }
}

/** Whether a frame is an update or the answer to the server's SyncStep1: each is answered by one SyncStatus. */
function carriesEdits(frame: Uint8Array): boolean {
  const decoder = afterName(frame)
  if (!decoder || decoding.readVarUint(decoder) !== SYNC) return false
  const step = decoding.readVarUint(decoder)
  return step === SYNC_STEP_2 || step === SYNC_UPDATE
}

function acknowledges(frame: Uint8Array): boolean {
  const decoder = afterName(frame)
  return decoder !== null && decoding.readVarUint(decoder) === SYNC_STATUS && decoding.readVarInt(decoder) === 1
}

/** Every frame starts with the document's name, except the one-byte ping and pong. */
function afterName(frame: Uint8Array): decoding.Decoder | null {
  if (frame.length < 2) return null
  const decoder = decoding.createDecoder(frame)
  decoding.readVarString(decoder)
  return decoder
}
