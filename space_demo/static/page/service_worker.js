// @ts-check
/**
 * Keeps the files of the page, so that it works without a network, and states its rules with every file.
 *
 * A worker of the page does not inherit the policy in the HTML; the headers added here bind it as well.
 */

importScripts("cached_files.js");

const CACHE = `lung-srad ${self.VERSION}`;

self.addEventListener("install", (event) => {
  const requests = self.FILES.map((file) => new Request(file, { cache: "no-cache" }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(requests)));
});

self.addEventListener("activate", (event) => event.waitUntil(takeOver()));

self.addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

async function takeOver() {
  const names = await caches.keys();
  await Promise.all(names.filter((name) => name !== CACHE).map((name) => caches.delete(name)));
  await self.clients.claim();
}

/** @param {Request} request */
async function answer(request) {
  const cache = await caches.open(CACHE);
  const response = (await cache.match(request, { ignoreSearch: true })) ?? (await fetch(request));
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(self.HEADERS)) headers.set(name, value);
  const { status, statusText } = response;
  return new Response(response.body, { status, statusText, headers });
}
