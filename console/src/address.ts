// Parses the address of the page: the server that it came from, under any path, and the document name after `#`.

const DEFAULT_NAME = 'welcome'

/** The server's WebSocket URL, derived from the page's address, whose path may come from a proxy or from `--path-prefix`. */
export function socketUrl({ protocol, host, pathname }: Location): string {
  const directory = pathname.slice(0, pathname.lastIndexOf('/'))
  return `${protocol === 'https:' ? 'wss' : 'ws'}://${host}${directory}`
}

/** Whether the page was loaded from this machine, so that no other machine can reach it at this address. */
export function isLoopback({ hostname }: Location): boolean {
  return /^(localhost|.*\.localhost|127(\.\d+){3}|\[::1\])$/.test(hostname)
}

/** The document named in the address; the default for no name and for names that a URL path cannot carry. */
export function documentName({ hash }: Location): string {
  let name = hash.slice(1)
  try {
    name = decodeURIComponent(name)
  } catch {
    // A lone % is part of the name as typed.
  }
  name = name.trim()
  return name === '' || name === '.' || name === '..' ? DEFAULT_NAME : name
}

/** The name under which both providers open the document: spelled as in a URL, so that it is the same document for them and
 *  for every other client. Only what a path cannot carry stays encoded on the server: `?`, `#`, `\`, and `/` next to dots. */
export function roomOf(name: string): string {
  // The server decodes what a URL parser encodes (protocol/SPEC.md, "Document names"). These characters end or split a path, or
  // are removed at its end.
  const room = name.replace(/[?#\\]|\s+$/g, encodeURIComponent)
  // A URL parser resolves these segments, so their slashes are encoded.
  const hasDots = name.split('/').some((segment) => segment === '.' || segment === '..')
  return hasDots ? room.replaceAll('/', '%2F') : room
}
