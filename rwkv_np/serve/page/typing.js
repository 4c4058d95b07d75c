// Text fields: Enter, input methods, and a height that follows the text.

/**
 * Whether this key belongs to an input method: then Enter accepts a candidate and must never send. Safari ends the
 * composition before the key event, and marks it only by the key code 229.
 */
export function isComposing(event) {
    return event.isComposing || event.keyCode === 229;
}

/** Phones have no Shift+Enter: there Enter starts a new line, and the button sends. */
export function entersLines() {
    return matchMedia("(hover: none) and (pointer: coarse)").matches;
}

/** Make a field as high as its text; style.css limits it. */
export function fit(area) {
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
}
