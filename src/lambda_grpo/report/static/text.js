"use strict";
// Text of prompts and completions as elements: code as code, maths set, everything else as it is. Nothing is parsed as
// HTML: all text gets into the page by textContent, and formulas as MathML elements by Temml.

const Text = (() => {
  const SHOWN = 20000; // characters before "show all"
  const FORMULA = 2000; // characters of the longest formula that is set
  const PARTS = new RegExp(
    [
      "```[^\\n`]*\\n[\\s\\S]*?(?:```|$)", // fenced code
      "`[^`\\n]+`", // code
      "\\$\\$[\\s\\S]+?\\$\\$", "\\\\\\[[\\s\\S]+?\\\\\\]", // display maths
      "\\\\\\([\\s\\S]+?\\\\\\)", "\\$(?! )[^$\\n]*[^ $\\n\\\\]\\$(?!\\d)", // maths in a line
      "\\\\boxed\\{(?:[^{}]|\\{(?:[^{}]|\\{[^{}]*\\})*\\})*\\}",
    ].join("|"),
    "g",
  );
  // control characters but tab and newline, marks that change the direction of text, and lone surrogates
  const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]/;
  const SPLIT = new RegExp(`(${HIDDEN.source}+)`);

  function make(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function visible(characters) {
    return Array.from(characters, visibleOne).join("");
  }

  function visibleOne(character) {
    const code = character.codePointAt(0);
    return code < 32 ? String.fromCodePoint(0x2400 + code) : `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
  }

  // Plain text, with characters that can't be seen made visible.
  function plain(into, text) {
    if (!HIDDEN.test(text)) {
      into.append(text);
      return;
    }
    for (const piece of text.split(SPLIT)) {
      if (piece === "") continue;
      into.append(HIDDEN.test(piece) ? make("span", "control", visible(piece)) : piece);
    }
  }

  function formula(into, source, isDisplay) {
    const inner = source.startsWith("\\boxed") ? source
      : source.startsWith("$$") || source.startsWith("\\") ? source.slice(2, -2) : source.slice(1, -1);
    if (typeof temml === "undefined" || source.length > FORMULA) return plain(into, source);
    const holder = make("span");
    try {
      temml.render(inner, holder, { displayMode: isDisplay, throwOnError: true, trust: false, maxExpand: 200, maxSize: [20, 20] });
    } catch {
      return plain(into, source); // no formula, or one that Temml doesn't know
    }
    holder.title = source;
    into.append(holder);
  }

  function pieces(into, text) {
    let end = 0;
    for (const found of text.matchAll(PARTS)) {
      plain(into, text.slice(end, found.index));
      const piece = found[0];
      if (piece.startsWith("```")) {
        const code = make("pre", "code");
        plain(code, piece.replace(/^```[^\n]*\n/, "").replace(/\n?```$/, ""));
        into.append(code);
      } else if (piece.startsWith("`")) {
        const code = make("code");
        plain(code, piece.slice(1, -1));
        into.append(code);
      } else {
        formula(into, piece, piece.startsWith("$$") || piece.startsWith("\\["));
      }
      end = found.index + piece.length;
    }
    plain(into, text.slice(end));
  }

  // The beginning of a text, written by `write`, and the rest when it is asked for.
  function set(into, text, write) {
    if (text.length <= SHOWN) return write(into, text);
    write(into, text.slice(0, SHOWN));
    const more = make("button", "", `show all ${text.length.toLocaleString("en")} characters`);
    more.type = "button";
    more.addEventListener("click", () => {
      more.remove();
      write(into, text.slice(SHOWN));
    });
    into.append("… ", more);
  }

  // A text, or a list of messages.
  function render(into, value) {
    into.replaceChildren();
    if (typeof value === "string") return set(into, value, pieces);
    for (const message of value) {
      const part = make("div", "message");
      part.append(make("span", "role", message.role));
      set(part, message.content, pieces);
      into.append(part);
    }
  }

  // The same without code and maths, and messages one after the other.
  function flat(into, value) {
    set(into, typeof value === "string" ? value : value.map((message) => message.content).join("\n"), plain);
  }

  return { make, plain, render, flat };
})();
