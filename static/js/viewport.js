// Keeps the page as tall as what is visible above an on-screen keyboard, where the browser does not do so itself.

export function followKeyboard(window) {
  const visible = window.visualViewport;
  if (!visible) return;
  const root = window.document.documentElement;
  visible.addEventListener("resize", () => {
    const keyboardOpen = visible.scale < 1.01 && window.innerHeight - visible.height > 80;
    if (!keyboardOpen) return root.style.removeProperty("--page-height");
    root.style.setProperty("--page-height", `${Math.round(visible.height)}px`);
    window.scrollTo(0, 0);
  });
}
