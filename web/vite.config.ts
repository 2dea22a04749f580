import tailwindcss from '@tailwindcss/vite';
import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';

// Where a Hearth runs while the interface is worked on: `npm run dev`.
const hearth = process.env.HEARTH_URL ?? 'http://localhost:3000';
const api = ['sandboxes', 'v2', 'v3', 'templates', 'default-templates', 'snapshots', 'secrets', 'api-keys', 'volumes', 'volumecontent', 'events', 'nodes', 'usage', 'teams'];

export default defineConfig({
  base: '/web/',
  plugins: [react(), tailwindcss()],
  build: { target: 'es2022', modulePreload: { polyfill: false }, chunkSizeWarningLimit: 700 },
  server: {
    proxy: Object.fromEntries(
      [...api.map((path) => `^/${path}(/|\\?|$)`), '^/web/(session|agent/)'].map((path) => [path, hearth]),
    ),
  },
});
