// @ts-check
/** Files of this page, checked for being whole. */

import { InputError } from "./errors.js";

/**
 * @param {string} path
 * @param {{bytes: number, sha256: string} | null} [expected]
 * @returns {Promise<ArrayBuffer>}
 * @throws {InputError} where it is missing or was cut off
 */
export async function fetchChecked(path, expected = null) {
  const failed = (/** @type {string} */ reason) =>
    new InputError(`The model could not be loaded (${path} ${reason})`, "check the network and load it again");
  /** @type {ArrayBuffer} */
  let content;
  try {
    const response = await fetch(new URL(path, import.meta.url));
    if (!response.ok) throw failed(`is missing: ${response.status}`);
    content = await response.arrayBuffer();
  } catch (error) {
    throw error instanceof InputError ? error : failed("did not arrive");
  }
  if (expected === null) return content;
  if (content.byteLength !== expected.bytes) {
    throw failed(`was cut off after ${content.byteLength} of ${expected.bytes} bytes`);
  }
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  const found = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  if (found !== expected.sha256) throw failed("was changed on the way");
  return content;
}
