// What htmx does not know: the form's token, and what to say when a live page has lost its connection.
(() => {
  const notice = () => document.getElementById("connection");

  document.addEventListener("htmx:configRequest", (event) => {
    const token = document.querySelector("meta[name=form-token]");
    if (token) event.detail.headers["X-Form-Token"] = token.content;
  });
  document.addEventListener("htmx:sseError", () => {
    if (notice()) notice().hidden = false;
  });
  document.addEventListener("htmx:sseOpen", () => {
    if (notice()) notice().hidden = true;
  });
  // An open list would close under the reader's hand.
  document.addEventListener("htmx:sseBeforeMessage", (event) => {
    const focused = document.activeElement;
    if (focused && focused.tagName === "SELECT" && event.target.contains(focused)) event.preventDefault();
  });
  document.addEventListener("htmx:responseError", (event) => {
    const box = document.getElementById("trouble");
    if (!box) return;
    box.hidden = false;
    box.textContent = `That did not work (${event.detail.xhr.status}). Load the page again.`;
  });
})();
