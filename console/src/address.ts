// What the address of the page means: the server it came from, under whatever path, and the document after `#`.

const DEFAULT_NAME = 'welcome'

/** The address of the server's sockets: that of the page, whose path may be a proxy's or the server's `--path-prefix`. */
export function socketUrl({ protocol, host, pathname }: Location): string {
  const directory = pathname.slice(0, pathname.lastIndexOf('/'))
  return `${protocol === 'https:' ? 'wss' : 'ws'}://${host}${directory}`
}

/** Whether the page was loaded from this very machine, so that no other one reaches it by this address. */
export function isLoopback({ hostname }: Location): boolean {
  return /^(localhost|.*\.localhost|127(\.\d+){3}|\[::1\])$/.test(hostname)
}

/** The document named in the address, or the default for no name and for names a URL path cannot carry. */
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

/** How both providers name the document: as a URL spells what a person typed, so that it is one document for them and for
 *  every other client. Only what a path cannot carry stays encoded on the server: `?`, `#`, `\`, and `/` beside dots. */
export function roomOf(name: string): string {
  // The server decodes what a URL encodes by itself (protocol/SPEC.md, "Document names"). These characters end or divide a path,
  // or are removed at its end.
  const room = name.replace(/[?#\\]|\s+$/g, encodeURIComponent)
  // A URL parser resolves these segments.
  const hasDots = name.split('/').some((segment) => segment === '.' || segment === '..')
  return hasDots ? room.replaceAll('/', '%2F') : room
}
