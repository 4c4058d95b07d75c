// Sets the chosen colours before anything is drawn, so that nothing flashes. A module would run too late.

try {
    const theme = JSON.parse(localStorage.getItem("rwkv-np.settings") ?? "{}").theme;
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
    // Storage is not allowed: use the system's colours.
}
