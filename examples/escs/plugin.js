"use strict";

/** A stand-in for the escs plugin. It shows the button, calls the game back, and signs the player in. */
const escs = (() => {
  const origin = new URL(document.currentScript.src).origin;
  let container;
  let callback;

  function create(name, properties, ...children) {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children); // as text, never as markup
    return element;
  }

  function button(label) {
    return create("button", { className: "escs-button", onclick: () => callback() }, label);
  }

  function show(...elements) {
    container.replaceChildren(create("div", { className: "escs" }, create("strong", {}, "escs"), ...elements));
  }

  return {
    /** Show the sign-in screen inside an element of the game's page. */
    mount(element) {
      container = element;
      show(create("p", {}, "You are not signed in."), button("Sign in with your game account"));
    },

    /** Register the game's callback for a press of the sign-in button. */
    onSignIn(listener) {
      callback = listener;
    },

    /** Sign in with an access token of the game and the list of what the player agreed to share. */
    async signIn(token, permissions) {
      const response = await fetch(`${origin}/sign-in`, {
        method: "POST",
        credentials: "omit",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ token, permissions }),
      });
      if (!response.ok) throw new Error(`escs: status ${response.status}`);
      const { url, status, profile } = await response.json();
      const rows = Object.entries(profile).flatMap(([name, value]) => [
        create("dt", {}, name),
        create("dd", {}, value),
      ]);
      show(
        create("p", { role: "status" }, status === 200 ? "You are signed in." : "You could not be signed in."),
        create("p", { className: "escs-exchange" }, `The player shared: ${["player ID", ...permissions].join(", ")}`),
        create("p", { className: "escs-exchange" }, `POST ${url} returned ${status} and:`),
        create("dl", {}, ...rows),
        button("Sign in again"),
      );
    },
  };
})();
