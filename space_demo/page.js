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

  // The kept recording, played from a second on; its place is shown on the plot.
  let audio = null;

  function show(player, seconds) {
    const duration = Number(player.getAttribute("aria-valuemax"));
    const { left, right } = player.dataset;
    player.setAttribute("aria-valuenow", seconds.toFixed(2));
    player.setAttribute("aria-valuetext", `${seconds.toFixed(1)} s`);
    const share = Number(left) + (seconds / duration) * (right - left);
    player.querySelector(".lung-cursor").style.left = `${100 * share}%`;
  }

  function play(player, seconds) {
    if (audio?.blob !== kept.blob) {
      audio?.pause();
      audio = Object.assign(new Audio(kept.blob ? URL.createObjectURL(kept.blob) : ""), { blob: kept.blob });
    }
    const duration = Number(player.getAttribute("aria-valuemax"));
    audio.ontimeupdate = () => show(player, Math.min(audio.currentTime, duration));
    audio.currentTime = Math.min(Math.max(seconds, 0), duration);
    show(player, audio.currentTime);
    // A browser that cannot decode the format stays silent; the place is shown all the same.
    audio.play().catch(console.warn);
  }

  function stop() {
    audio?.pause();
  }

  return { send, sendPart, play, stop };
})();

document.addEventListener("click", (event) => {
  const player = event.target.closest(".lung-player");
  if (!player) return;
  const place = player.getBoundingClientRect();
  const { left, right } = player.dataset;
  const share = ((event.clientX - place.left) / place.width - left) / (right - left);
  window.lungSounds.play(player, share * Number(player.getAttribute("aria-valuemax")));
});

document.addEventListener("keydown", (event) => {
  if (!event.target.matches?.(".lung-player")) return;
  const steps = { ArrowLeft: -1, ArrowRight: 1, PageDown: -10, PageUp: 10 };
  const now = Number(event.target.getAttribute("aria-valuenow"));
  if (event.key === " ") window.lungSounds.stop();
  else if (event.key in steps) window.lungSounds.play(event.target, now + steps[event.key]);
  else if (event.key === "Home") window.lungSounds.play(event.target, 0);
  else return;
  event.preventDefault();
});

// The link to the plot gets the address of the image when it is used, which is large.
document.addEventListener("click", (event) => {
  const link = event.target.closest("#lung-plot-link");
  if (link) link.href = document.querySelector("#answer .lung-figure").src;
}, true);

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
