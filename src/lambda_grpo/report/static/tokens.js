"use strict";
// A completion token by token, each one shaded, with its numbers at the pointer or at the keyboard's cursor.

const Tokens = (() => {
  const STRONGEST = 45; // percent of colour in the background, so that text on it stays readable
  const tip = Text.make("div", "tip");
  tip.hidden = true;
  tip.setAttribute("role", "tooltip");
  document.body.append(tip);

  function share(value, limit) {
    return limit > 0 ? Math.round(STRONGEST * Math.min(1, Math.abs(value) / limit)) : 0;
  }

  function colour(value, limit) {
    const strength = share(value, limit);
    if (!strength) return "transparent";
    return `color-mix(in srgb, var(--${value > 0 ? "positive" : "negative"}) ${strength}%, transparent)`;
  }

  // What a token is shaded by. limit: the value of the strongest colour.
  function shade(sample, mode, objective, limits) {
    const credit = sample.credit ? sample.credit[objective] : 0;
    if (mode === "surprise" && sample.logprobs) return (i) => colour(-sample.logprobs[i], 4);
    if (mode === "entropy" && sample.entropies) return (i) => colour(sample.entropies[i], 2);
    // of the run's own objective, if it weighs single tokens
    if (objective === 0 && sample.weights) return (i) => colour(sample.weights[i] * sample.advantage, limits.token);
    return () => colour(credit, limits.credit);
  }

  function signed(value) {
    return value === null || value === undefined ? "–" : (value > 0 ? "+" : "") + String(Number(value.toPrecision(3)));
  }

  function describe(sample, i, objective) {
    const said = [`${JSON.stringify(sample.tokens[i])}, token ${i + 1} of ${sample.tokens.length}`];
    if (sample.logprobs) {
      const logprob = sample.logprobs[i];
      said.push(`log-probability ${signed(logprob)} (p ${Number(Math.exp(logprob).toPrecision(2))})`);
    }
    if (sample.entropies) said.push(`entropy ${Number(sample.entropies[i].toPrecision(2))} nats`);
    if (sample.credit) {
      const isOwn = objective === 0 && sample.weights;
      said.push(`weight × advantage ${signed(isOwn ? sample.weights[i] * sample.advantage : sample.credit[objective])}`);
    }
    if (sample.logprobs) said.push(new Set(sample.clipped).has(i) ? "clipped: no gradient" : "not clipped");
    return said.join("\n");
  }

  function show(span, text) {
    const place = span.getBoundingClientRect();
    tip.textContent = text;
    tip.hidden = false;
    const left = Math.min(place.left, window.innerWidth - tip.offsetWidth - 8);
    const below = place.bottom + 6 + tip.offsetHeight < window.innerHeight;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${below ? place.bottom + 6 : place.top - tip.offsetHeight - 6}px`;
  }

  function hide() {
    tip.hidden = true;
  }

  // Fills `into` with the tokens of a sample; returns a function that shades them anew.
  function render(into, sample, state) {
    into.replaceChildren();
    const clipped = new Set(sample.clipped);
    const spans = sample.tokens.map((token, i) => {
      const span = Text.make("span", clipped.has(i) ? "clipped" : "");
      Text.plain(span, token);
      return span;
    });
    into.append(...spans);
    let at = -1;
    const place = new Map(spans.map((span, i) => [span, i]));
    const move = (i) => {
      if (at >= 0) spans[at].classList.remove("at");
      at = i;
      if (at < 0) return hide();
      spans[at].classList.add("at");
      spans[at].scrollIntoView({ block: "nearest" });
      show(spans[at], describe(sample, at, state.objective));
    };
    into.tabIndex = 0;
    into.setAttribute("role", "group");
    into.setAttribute("aria-label", "tokens; left and right arrow keys read their numbers");
    into.onmouseover = (event) => {
      const span = event.target.closest("span");
      const i = place.get(span) ?? place.get(span?.parentElement);
      if (i !== undefined) show(spans[i], describe(sample, i, state.objective));
    };
    into.onmouseout = hide;
    into.onblur = () => move(-1);
    into.onkeydown = (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      move(Math.min(spans.length - 1, Math.max(0, at + step)));
    };
    const paint = () => {
      const of = shade(sample, state.mode, state.objective, state.limits);
      spans.forEach((span, i) => (span.style.backgroundColor = of(i)));
    };
    paint();
    return paint;
  }

  return { render, colour, signed };
})();
