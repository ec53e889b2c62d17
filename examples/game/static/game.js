"use strict";

// The backend accepts requests of one origin: leave any other name of its host, such as localhost.
const canonical = document.querySelector("link[rel=canonical]").href;
if (new URL(canonical).origin !== location.origin) location.replace(canonical);

/** Post JSON to the game's own backend. The browser adds the session cookie, which no script can read. */
async function post(path, body = {}) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  if (!response.ok) throw new Error(`${path}: status ${response.status}`);
  return response.status === 204 ? undefined : response.json();
}

/** Run an action, and show its error to the player. */
async function attempt(action) {
  const error = document.querySelector("#error");
  error.textContent = "";
  try {
    await action();
  } catch (reason) {
    error.textContent = `That did not work (${reason.message}). Please try again.`;
  }
}

async function postAndReload(path, body) {
  await post(path, body);
  location.reload();
}

for (const button of document.querySelectorAll("[data-player]")) {
  button.addEventListener("click", () => attempt(() => postAndReload("/login", { player: button.dataset.player })));
}
document.querySelector("#log-out")?.addEventListener("click", () => attempt(() => postAndReload("/logout")));

// The complete sign-in to escs: callback, consent, token, and back to the plugin.
const dialog = document.querySelector("dialog");
if (dialog) {
  escs.mount(document.querySelector("#escs"));
  escs.onSignIn(() => {
    dialog.returnValue = "cancel"; // also the result of the Escape key
    dialog.showModal();
  });
  dialog.addEventListener("close", () => {
    if (dialog.returnValue !== "agree") return;
    attempt(async () => {
      const permissions = new FormData(dialog.querySelector("form")).getAll("permissions");
      const { token } = await post("/escs/token", { permissions });
      await escs.signIn(token, permissions);
    });
  });
}
