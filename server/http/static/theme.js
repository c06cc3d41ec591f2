// In the head and no module, so that the chosen theme stands before anything is drawn.
(() => {
  const KEY = "autocompressor-theme";
  const NEXT = { system: "light", light: "dark", dark: "system" };
  const SIGN = { system: "◐", light: "☀", dark: "☾" };

  function stored() {
    try {
      return localStorage.getItem(KEY) ?? "system";
    } catch {
      return "system"; // a browser may refuse storage
    }
  }

  function apply(theme) {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  }

  let theme = stored() in NEXT ? stored() : "system";
  apply(theme);

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => {
      button.textContent = SIGN[theme];
      button.setAttribute("aria-label", `Theme: ${theme === "system" ? "as the system" : theme}`);
      button.title = button.getAttribute("aria-label");
    };
    show();
    button.addEventListener("click", () => {
      theme = NEXT[theme];
      apply(theme);
      show();
      try {
        localStorage.setItem(KEY, theme);
      } catch {
        return; // the choice then lasts as long as the page
      }
    });
  });
})();
