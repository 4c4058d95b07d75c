// Light and dark: the system's, unless the reader has chosen.

const dark = matchMedia("(prefers-color-scheme: dark)");

/** Show a choice: "auto", "light" or "dark". */
export function showTheme(choice) {
    if (choice === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = choice;
}

/** Whether the page is dark now. */
export function isDark(choice) {
    return choice === "auto" ? dark.matches : choice === "dark";
}

/** Call when the system changes. */
export function onSystemTheme(act) {
    dark.addEventListener("change", act);
}
