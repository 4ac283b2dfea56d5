// @ts-check
/** The service worker of the page, which keeps its files. */

/**
 * Waits until the files are kept and the service worker answers for this page.
 * @returns {Promise<boolean>} false where the browser offers none, or not all files arrived
 */
export async function keepFiles() {
  if (!("serviceWorker" in navigator)) return false;
  try {
    const registration = await navigator.serviceWorker.register("service_worker.js");
    const worker = registration.active ?? registration.waiting ?? registration.installing;
    if (!worker) return false;
    await activated(worker);
    return true;
  } catch {
    return false;
  }
}

/** Forgets the kept files, which may be damaged. */
export async function forgetFiles() {
  for (const name of (await globalThis.caches?.keys()) ?? []) await caches.delete(name);
  for (const registration of (await navigator.serviceWorker?.getRegistrations()) ?? []) await registration.unregister();
}

/** @param {ServiceWorker} worker */
function activated(worker) {
  return new Promise((resolve, reject) => {
    const look = () => {
      if (worker.state === "activated") resolve(undefined);
      if (worker.state === "redundant") reject(new Error("some files did not arrive"));
    };
    worker.addEventListener("statechange", look);
    look();
  });
}
