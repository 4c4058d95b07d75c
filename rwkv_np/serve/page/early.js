// Before anything is drawn: the colours that the reader chose, so that nothing flashes. No module, for that reason.

try {
    const theme = JSON.parse(localStorage.getItem("rwkv-np.settings") ?? "{}").theme;
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
    // Storage is forbidden: the system's colours.
}
