/** The element with that id, which index.html has. */
export function byId<T extends Element = HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (found === null) {
    throw new Error(`index.html has no #${id}`);
  }
  return found as unknown as T;
}

/** A new element with attributes and what is in it. Text stays text. */
export function make<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  attributes: Record<string, string> = {},
  ...inside: (Node | string)[]
): HTMLElementTagNameMap[Tag] {
  const element = document.createElement(tag);
  Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  element.append(...inside);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** One of the symbols of index.html. */
export function icon(name: string, css = ""): SVGSVGElement {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", css);
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** Dress an element as somebody's picture: initials on a colour that is always theirs. */
export function face(element: HTMLElement, name: string): HTMLElement {
  const hash = [...name].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)!) >>> 0, 7);
  element.className = `${element.className.replace(/\bc\d\b/, "").trim()} c${hash % 8}`;
  const words = name.split(/[\s._-]+/).filter(Boolean);
  element.textContent = words.slice(0, 2).map((word) => [...word][0]).join("").toUpperCase() || "?";
  return element;
}

const NOTICE_MS = 6_000;

/** A line for a few seconds, also read out. */
export function notify(text: string): void {
  const notice = make("div", { class: "notice" }, text);
  byId("notices").append(notice);
  setTimeout(() => notice.remove(), NOTICE_MS);
}
