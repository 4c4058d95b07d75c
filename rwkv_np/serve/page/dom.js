// Builds DOM nodes. Text always becomes text nodes: nothing in the page parses HTML.

/**
 * An element. `props`: class, attributes (true: present, false or null: absent), and `on`: listeners by event. Children
 * are nodes or texts; null and false are skipped.
 */
export function el(tag, props = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(props)) {
        if (name === "on") {
            for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
        } else if (name === "class") {
            node.className = value;
        } else if (value !== false && value !== null && value !== undefined) {
            node.setAttribute(name, value === true ? "" : value);
        }
    }
    node.append(...children.filter((child) => child !== null && child !== false && child !== undefined));
    return node;
}

/** A button with an icon. Its label is for screen readers and the tooltip. */
export function iconButton(name, label, onClick, props = {}) {
    return el("button", { type: "button", "aria-label": label, title: label, on: { click: onClick }, ...props,
        class: `icon ${props.class ?? ""}`.trim() }, icon(name));
}

const SVG = "http://www.w3.org/2000/svg";
const PATHS = {
    plus: "M12 5v14M5 12h14",
    menu: "M4 7h16M4 12h10M4 17h16",
    more: "M6 12h.01M12 12h.01M18 12h.01",
    settings: "M4 7h9M19 7h1M4 17h1M11 17h9M16 4.5v5M8 14.5v5",
    sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 2.5v2M12 19.5v2M2.5 12h2M19.5 12h2M5.3 5.3l1.4 1.4M17.3 17.3l1.4 1.4"
        + "M5.3 18.7l1.4-1.4M17.3 6.7l1.4-1.4",
    moon: "M19.5 14.2A8 8 0 0 1 9.8 4.5a8 8 0 1 0 9.7 9.7",
    send: "M12 19V5M6 11l6-6 6 6",
    stop: "M7.5 7.5h9v9h-9z",
    copy: "M9 9h10v11H9zM15 9V4H5v11h4",
    done: "M5 12.5l4.5 4.5L19 7.5",
    again: "M19 12a7 7 0 1 1-2.2-5.1M19 3.5V8h-4.5",
    onward: "M5 12h13M12.5 6.5 18 12l-5.5 5.5",
    edit: "M5 19l1-4L16.5 4.5l3 3L9 18z",
    left: "M14.5 6 8.5 12l6 6",
    right: "M9.5 6l6 6-6 6",
    down: "M12 5v14M6 13l6 6 6-6",
    close: "M6 6l12 12M18 6 6 18",
};

/** One of the page's icons; it has the colour of the surrounding text. */
export function icon(name) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 24 24");
    svg.setAttribute("aria-hidden", "true");
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", PATHS[name]);
    svg.append(path);
    return svg;
}

/** Copy a text to the clipboard. Browsers offer the modern API only to pages that were loaded with TLS. */
export async function copyText(text) {
    try {
        await navigator.clipboard.writeText(text);
        return true;
    } catch {
        const area = el("textarea", { class: "offscreen", readonly: true });
        area.value = text;
        const focused = document.activeElement;
        document.body.append(area);
        area.select();
        const isDone = document.execCommand("copy");
        area.remove();
        focused?.focus?.();
        return isDone;
    }
}

/** A button that copies the result of `text()`, and confirms it for a moment. */
export function copyButton(label, doneLabel, text) {
    const button = iconButton("copy", label, async () => {
        if (!(await copyText(text()))) return;
        button.replaceChildren(icon("done"));
        button.setAttribute("aria-label", doneLabel);
        setTimeout(() => {
            button.replaceChildren(icon("copy"));
            button.setAttribute("aria-label", label);
        }, 1500);
    });
    return button;
}
