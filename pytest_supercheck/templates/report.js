// The page reads well without this: it shows times as the reader's own, filters the list of tests, and unfolds what is
// linked to or printed.
for (const time of document.querySelectorAll("time")) {
  time.title = time.textContent;
  time.textContent = new Date(time.dateTime).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

const unfold = () => {
  const wanted = location.hash && document.getElementById(location.hash.slice(1));
  for (let part = wanted; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  if (wanted) wanted.scrollIntoView();
};
addEventListener("hashchange", unfold);
unfold();
addEventListener("beforeprint", () => document.querySelectorAll(".failure").forEach((part) => (part.open = true)));

const tools = document.querySelector(".tools");
if (tools) {
  const search = tools.querySelector("[type=search]");
  const modules = [...document.querySelectorAll(".module")].map((module) => ({
    module,
    open: module.open,
    path: module.dataset.path.toLowerCase(),
    rows: [...module.querySelectorAll("tbody > tr")],
  }));
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = new Set([...tools.querySelectorAll("[type=checkbox]:checked")].map((box) => box.value));
    let shown = 0;
    for (const { module, open, path, rows } of modules) {
      let found = 0;
      for (const row of rows) {
        const text = `${path}::${row.cells[1].textContent.toLowerCase()}`;
        row.hidden = (wanted.size > 0 && !wanted.has(row.cells[0].textContent)) || !words.every((word) => text.includes(word));
        found += !row.hidden;
      }
      module.hidden = found === 0;
      module.open = words.length + wanted.size > 0 ? shown + found <= 200 : open;
      shown += found;
    }
    tools.querySelector("output").textContent = words.length + wanted.size > 0 ? `${shown} found` : "";
  };
  tools.hidden = false;
  tools.addEventListener("input", filter);
}
