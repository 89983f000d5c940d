// A reverse proxy in front of the server: it can add a path prefix, rewrite responses, and count bytes and requests.

import { once } from 'node:events'
import { createServer, request } from 'node:http'
import { connect } from 'node:net'

/**
 * Listens on a port of its own and forwards to `upstreamPort`.
 *
 * - `path`: the prefix that the proxy removes from each request path, for example `/collab`.
 * - `rewrite(path, text)`: rewrites the body of a response; bodies are then not compressed.
 */
export async function startProxy(upstreamPort, { path = '', rewrite } = {}) {
  const upstreamPath = (url) => (url.startsWith(path) ? url.slice(path.length) || '/' : null)
  const proxy = { bytes: 0, requests: [], rewrite }

  const server = createServer((incoming, response) => {
    const target = upstreamPath(incoming.url)
    if (target === null) return response.writeHead(404).end()
    const headers = { ...incoming.headers }
    if (proxy.rewrite) for (const name of ['accept-encoding', 'if-none-match']) delete headers[name]
    const outgoing = request({ port: upstreamPort, path: target, method: incoming.method, headers }, async (answer) => {
      proxy.requests.push(`${answer.statusCode} ${target}`)
      if (!proxy.rewrite) return answer.pipe(response.writeHead(answer.statusCode, answer.headers))
      const parts = await answer.toArray()
      const body = proxy.rewrite(target, Buffer.concat(parts).toString())
      const { 'content-length': _length, etag: _etag, ...kept } = answer.headers
      response.writeHead(answer.statusCode, kept).end(body)
    })
    outgoing.on('error', () => response.writeHead(502).end('no server'))
    outgoing.end()
  })
  server.on('upgrade', (incoming, socket) => {
    const target = upstreamPath(incoming.url)
    if (target === null) return socket.destroy()
    const upstream = connect(upstreamPort, '127.0.0.1', () => {
      const lines = incoming.rawHeaders.reduce((text, value, i) => text + value + (i % 2 ? '\r\n' : ': '), '')
      upstream.write(`GET ${target} HTTP/1.1\r\n${lines}\r\n`)
      upstream.pipe(socket).pipe(upstream)
    })
    for (const [one, other] of [[upstream, socket], [socket, upstream]]) one.on('error', () => other.destroy())
  })
  server.on('connection', (socket) => {
    // All bytes written until the socket closes, including headers and WebSocket frames.
    let counted = 0
    const count = () => {
      proxy.bytes += socket.bytesWritten - counted
      counted = socket.bytesWritten
    }
    const timer = setInterval(count, 20)
    socket.on('close', () => {
      clearInterval(timer)
      count()
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')

  proxy.url = `http://127.0.0.1:${server.address().port}${path}/`
  proxy.stop = async () => {
    server.close()
    server.closeAllConnections()
  }
  return proxy
}
