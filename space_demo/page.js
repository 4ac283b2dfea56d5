// The server removes a recording as soon as it has answered. This page keeps it, to send it again with the next question.
window.lungSounds = (() => {
  let kept = { path: null, blob: null };

  async function upload(blob, name) {
    const form = new FormData();
    form.append("files", blob, name);
    const response = await fetch(`${window.gradio_config.root}/gradio_api/upload`, { method: "POST", body: form });
    if (!response.ok) throw new Error(await response.text());
    return (await response.json())[0];
  }

  async function send(recording, ...settings) {
    if (!recording) return [recording, ...settings];
    try {
      if (kept.path === recording.path) {
        const path = await upload(kept.blob, recording.orig_name ?? "recording.wav");
        return [{ ...recording, path, url: null }, ...settings];
      }
      const response = await fetch(recording.url);
      if (response.ok) kept = { path: recording.path, blob: await response.blob() };
    } catch (error) {
      // The server then says that the recording is no longer there.
      console.warn(error);
    }
    return [recording, ...settings];
  }

  async function sendPart(recording, checkpoint) {
    return send(recording, checkpoint, document.querySelector("#lung-part")?.value ?? null);
  }

  return { send, sendPart };
})();

// Voice control finds buttons by the words on them, which gradio leaves out of some names.
new MutationObserver(() => {
  for (const button of document.querySelectorAll("#recording button[aria-label]")) {
    const [shown, name] = [button.innerText.replace(/\s+/g, " ").trim(), button.getAttribute("aria-label")];
    if (!name.includes(shown)) button.setAttribute("aria-label", `${shown}: ${name}`);
  }
}).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ["aria-label"] });

// A file that is too large is refused before it is sent, and without its name.
for (const type of ["change", "drop"]) {
  document.addEventListener(
    type,
    (event) => {
      const alert = document.querySelector(".lung-alert");
      const files = [...((type === "drop" ? event.dataTransfer : event.target).files ?? [])];
      if (!event.target.closest("#recording") || !files.length) return;
      const refused = files.some((file) => file.size > Number(alert.dataset.largest));
      alert.textContent = refused ? alert.dataset.message : "";
      if (!refused) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      if (type === "change") event.target.value = "";
    },
    true,
  );
}
