/** Elements without markup in strings: text stays text. */

/**
 * @param {string} spec a tag and its classes: "p.facts"
 * @param {Object<string, *>} attributes `on…` are listeners; null and false leave one out, true sets it empty
 * @param {...(Node|string|null)} children
 */
export function el(spec, attributes = {}, ...children) {
  const [tag, ...classes] = spec.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  return fill(element, attributes, children);
}

/** As `el`, of SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Set a custom property; a style attribute in markup would break the page's security policy. */
export function vary(element, name, value) {
  element.style.setProperty(name, value);
  return element;
}

/** Show a running call: its Stop button instead of its main one. */
export function setBusy(root, isBusy) {
  root.setAttribute("aria-busy", String(isBusy));
  const main = root.querySelector(".main");
  const stop = root.querySelector("[data-do=stop]");
  const hadFocus = [main, stop].includes(document.activeElement);
  main.hidden = isBusy;
  stop.hidden = !isBusy;
  if (hadFocus) (isBusy ? stop : main).focus();
}

export async function copy(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed"; // no clipboard without a secure origin
  }
  setTimeout(() => {
    button.textContent = before;
  }, 1500);
}
