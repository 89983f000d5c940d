// Builds the page with content hashes in file names and without source maps, so that the same sources give the same bytes,
// browsers may cache assets forever, and the service worker has the list of files.
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { defineConfig, transformWithOxc, type Plugin } from 'vite'

const PAGE = './'

export default defineConfig({
  base: './',
  plugins: [serviceWorker()],
  build: {
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    sourcemap: false,
    // The bundle contains third-party code: its licence texts are shipped with it.
    license: { fileName: 'assets/licenses.md' },
    rolldownOptions: {
      output: {
        entryFileNames: 'assets/app-[hash].js',
        assetFileNames: 'assets/app-[hash][extname]',
        codeSplitting: false,
      },
    },
  },
})

/** Emits `service-worker.js` with the list of files that the page needs and their hash as its version. */
function serviceWorker(): Plugin {
  return {
    name: 'service-worker',
    apply: 'build',
    enforce: 'post',
    generateBundle: {
      order: 'post',
      async handler(_options, bundle) {
        const needed = Object.values(bundle)
          .filter(({ fileName }) => /\.(html|js|css)$/.test(fileName))
          .sort((a, b) => (a.fileName < b.fileName ? -1 : 1))
        const hash = createHash('sha256')
        for (const file of needed) hash.update(file.fileName).update(file.type === 'chunk' ? file.code : file.source)
        const files = [PAGE, ...needed.map(({ fileName }) => fileName).filter((name) => name !== 'index.html')]
        const source = fileURLToPath(new URL('src/service-worker.ts', import.meta.url))
        const { code } = await transformWithOxc(readFileSync(source, 'utf8'), source)
        const values = [hash.digest('hex').slice(0, 16), files].map((value) => JSON.stringify(value))
        this.emitFile({
          type: 'asset',
          fileName: 'service-worker.js',
          source: `const VERSION = ${values[0]};\nconst FILES = ${values[1]};\n${code}`,
        })
      },
    },
  }
}
