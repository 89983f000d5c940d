// How the page is built: fixed file names and no source maps, so that the same sources give the same bytes and the
// server can embed `dist` by name.
import { defineConfig } from 'vite'

export default defineConfig({
  base: './',
  build: {
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    sourcemap: false,
    // The bundle contains other people's work: their licence texts travel with it.
    license: { fileName: 'assets/licenses.md' },
    rolldownOptions: {
      output: {
        entryFileNames: 'assets/app.js',
        assetFileNames: 'assets/app[extname]',
        codeSplitting: false,
      },
    },
  },
})
