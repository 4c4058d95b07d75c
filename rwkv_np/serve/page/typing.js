// Text fields: Enter and input methods, and a height that follows the text.

/**
 * Whether this key belongs to an input method: Enter then takes a candidate and must never send. Safari ends the
 * composition before the key comes, and says so by 229 alone.
 */
export function isComposing(event) {
    return event.isComposing || event.keyCode === 229;
}

/** Phones have no Shift+Enter: there Enter is a new line, and the button sends. */
export function entersLines() {
    return matchMedia("(hover: none) and (pointer: coarse)").matches;
}

/** Make a field as high as its text; style.css limits it. */
export function fit(area) {
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
}
