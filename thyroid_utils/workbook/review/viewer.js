// Pictures of one case side by side, each a frame under layers that share opacity, zoom and place.
// ← and → ask for the next case, 1 to 5 switch layers, R draws a ruler, 0 shows the whole picture.

const make = (tag, attributes, ...inside) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...inside);
  return node;
};

function render({ model, el }) {
  const controls = make("div", { class: "review-controls" });
  const stage = make("div", { class: "review-stage" });
  const place = make("span", { class: "review-place", role: "status" });
  const root = make("div", { class: "review-viewer", tabindex: 0, role: "group", "aria-label": "Case: pictures and layers" }, controls, stage);
  el.append(root);

  const button = (text, title, act) => {
    const made = make("button", { type: "button", title }, text);
    made.addEventListener("click", act);
    return made;
  };
  const step = (by) => model.send({ step: by });
  const ruler = button("Ruler", "Measure by dragging (R)", () => setRuler(!measuring));
  const back = button("←", "Previous case (left arrow)", () => step(-1)), next = button("→", "Next case (right arrow)", () => step(1));
  const moves = make("span", { class: "review-moves" }, back, place, next, ruler,
    button("Whole", "Show the whole picture (0)", () => { view = { x: 0, y: 0, scale: 1 }; move(); }));
  controls.append(moves);

  // Layers: the last opacity of one that is switched off is kept.
  const names = model.get("layers"), last = {}, sliders = {};
  const setOpacity = (name, value) => {
    if (value > 0) last[name] = value;
    model.set("opacity", { ...model.get("opacity"), [name]: value });
    model.save_changes();
  };
  const toggle = (name) => setOpacity(name, model.get("opacity")[name] > 0 ? 0 : last[name] ?? 0.8);
  names.forEach(([name, label], at) => {
    const slider = make("input", { type: "range", min: 0, max: 1, step: 0.05, "aria-label": `Opacity of ${label}` });
    const shown = make("button", { type: "button", class: `review-layer ${name}`, title: `Switch ${label} (${at + 1})` }, label);
    slider.addEventListener("input", () => setOpacity(name, slider.valueAsNumber));
    shown.addEventListener("click", () => toggle(name));
    sliders[name] = [slider, shown];
    controls.append(make("span", { class: "review-slider" }, shown, slider));
  });
  const fade = () => {
    const opacity = model.get("opacity");
    for (const [name, [slider, shown]] of Object.entries(sliders)) {
      slider.value = opacity[name] ?? 0;
      shown.setAttribute("aria-pressed", opacity[name] > 0);
      stage.querySelectorAll(`img.${name}`).forEach((image) => (image.style.opacity = opacity[name] ?? 0));
    }
  };

  // Zoom and place are shared, in shares of a picture's width and height.
  let view = { x: 0, y: 0, scale: 1 }, measuring = false, urls = [];
  const move = () => {
    const inside = (value) => Math.min(0, Math.max(1 - view.scale, value));
    view.x = inside(view.x);
    view.y = inside(view.y);
    stage.querySelectorAll(".review-sheet").forEach((sheet) => {
      sheet.style.transform = `translate(${100 * view.x}%, ${100 * view.y}%) scale(${view.scale})`;
    });
  };
  const setRuler = (on) => {
    measuring = on;
    ruler.setAttribute("aria-pressed", on);
    root.classList.toggle("measuring", on);
    if (!on) stage.querySelectorAll("svg line").forEach((line) => line.remove());
  };
  const at = (event, frame) => {
    const box = frame.getBoundingClientRect();
    return [(event.clientX - box.x) / box.width, (event.clientY - box.y) / box.height];
  };
  const measured = (from, to, picture) => {
    const pixels = Math.hypot((to[0] - from[0]) * picture.width, (to[1] - from[1]) * picture.height) / view.scale;
    const spacing = model.get("spacing");
    return spacing > 0 ? `${(pixels * spacing).toFixed(1)} mm` : `${pixels.toFixed(0)} pixels (no scale is known)`;
  };
  const listen = (frame, sheet, picture, note) => {
    frame.addEventListener("wheel", (event) => {
      event.preventDefault();
      const [x, y] = at(event, frame), scale = Math.min(12, Math.max(1, view.scale * Math.exp(-event.deltaY / 400)));
      const grown = scale / view.scale;
      view = { x: x - (x - view.x) * grown, y: y - (y - view.y) * grown, scale };
      move();
    }, { passive: false });
    frame.addEventListener("pointerdown", (event) => {
      const from = at(event, frame), begun = { ...view }, svg = sheet.querySelector("svg");
      frame.setPointerCapture(event.pointerId);
      const line = document.createElementNS(svg.namespaceURI, "line");
      if (measuring) svg.replaceChildren(line);
      const drag = (next) => {
        const to = at(next, frame);
        if (measuring) {
          [from, to].forEach((point, end) => ["x", "y"].forEach((axis, k) =>
            line.setAttribute(`${axis}${end + 1}`, (100 * (point[k] - begun[axis])) / begun.scale)));
          note.textContent = measured(from, to, picture);
        } else {
          view = { ...begun, x: begun.x + to[0] - from[0], y: begun.y + to[1] - from[1] };
          move();
        }
      };
      frame.addEventListener("pointermove", drag);
      frame.addEventListener("pointerup", () => frame.removeEventListener("pointermove", drag), { once: true });
    });
  };

  const draw = () => {
    const old = urls;
    urls = [];
    const figures = model.get("pictures").map((picture) => {
      const sheet = make("div", { class: "review-sheet" }), note = make("output", {}, "");
      for (const [name, bytes] of Object.entries(picture.layers)) {
        urls.push(URL.createObjectURL(new Blob([bytes], { type: "image/png" })));
        sheet.append(make("img", { class: name, src: urls.at(-1), alt: `${name} of ${picture.title}`, draggable: false }));
      }
      sheet.insertAdjacentHTML("beforeend", '<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true"></svg>');
      const shape = picture.width / picture.height, style = `aspect-ratio: ${shape}; max-width: calc(62vh * ${shape})`;
      const frame = make("div", { class: "review-frame", style }, sheet);
      listen(frame, sheet, picture, note);
      return make("figure", {}, make("figcaption", {}, make("b", {}, picture.title), " ", picture.note), frame, note);
    });
    stage.replaceChildren(...figures);
    const held = new Set(model.get("pictures").flatMap((picture) => Object.keys(picture.layers))).add("attention");  // made when asked
    for (const [name, [slider]] of Object.entries(sliders)) slider.parentElement.style.display = held.has(name) ? "" : "none";
    place.textContent = model.get("position");
    back.hidden = next.hidden = !model.get("position");
    old.forEach((url) => URL.revokeObjectURL(url));
    fade();
    move();
  };

  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = { ArrowLeft: -1, ArrowRight: 1 }[event.key], layer = names[Number(event.key) - 1];
    if (arrow && event.target.type !== "range") step(arrow);
    else if (layer) toggle(layer[0]);
    else if (event.key === "r") setRuler(!measuring);
    else if (event.key === "0") { view = { x: 0, y: 0, scale: 1 }; move(); }
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  model.on("change:pictures", draw);
  model.on("change:position", () => (place.textContent = model.get("position")));
  model.on("change:opacity", fade);
  draw();
  return () => urls.forEach((url) => URL.revokeObjectURL(url));
}

export default { render };
