// @ts-check
/**
 * Keeps the files of the page, so that it works without a network, and states its rules with every file.
 *
 * A worker of the page does not inherit the policy in the HTML; the headers added here bind it as well.
 */

importScripts("cached_files.js");

/** @typedef {{VERSION: string, FILES: string[], HEADERS: Record<string, string>}} CachedFiles */
const worker = /** @type {ServiceWorkerGlobalScope & CachedFiles} */ (/** @type {unknown} */ (self));
const CACHE = `lung-srad ${worker.VERSION}`;

worker.addEventListener("install", (event) => {
  const requests = worker.FILES.map((file) => new Request(file, { cache: "no-cache" }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(requests)));
});

worker.addEventListener("activate", (event) => event.waitUntil(takeOver()));

worker.addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

async function takeOver() {
  const names = await caches.keys();
  await Promise.all(names.filter((name) => name !== CACHE).map((name) => caches.delete(name)));
  await worker.clients.claim();
}

/** @param {Request} request */
async function answer(request) {
  const cache = await caches.open(CACHE);
  const response = (await cache.match(request, { ignoreSearch: true })) ?? (await fetch(request));
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(worker.HEADERS)) headers.set(name, value);
  const { status, statusText } = response;
  return new Response(response.body, { status, statusText, headers });
}
