// Starts the system's Chromium for tests that drive the console page. Nothing is downloaded.

import { chromium } from 'playwright-core'

/** A headless browser with a fresh profile, which is removed when it closes. `CHROMIUM` names another binary; `more`: more flags. */
export function launchChromium(more = []) {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      ...more,
    ],
  })
}
