// What htmx does not know: the form's token, and what to say when a form has failed or a live page lost its connection.
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
  const tell = (words) => {
    const box = document.getElementById("trouble");
    if (!box) return;
    box.hidden = false;
    box.textContent = words;
  };
  document.addEventListener("htmx:responseError", (event) => {
    const { status, response } = event.detail.xhr;
    try {
      tell(JSON.parse(response).detail);
    } catch {
      tell(`That did not work (${status}). Load the page again.`);
    }
  });
  document.addEventListener("htmx:sendError", () => tell("The server does not answer. Try again in a moment."));
})();
