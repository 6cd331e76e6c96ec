// The page of HTTP routes: what /openapi.json says, for people.

const INDENT = "  ";

/** An element with a class and children; text is only ever put in as text. */
function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** The schema itself where another place is named. */
function resolve(schema, all) {
  const place = schema.$ref;
  return place ? all[place.split("/").pop()] : schema;
}

/** A schema as the outline of the JSON that it describes, with what is said of each field. */
function outline(schema, all, indent = "") {
  const found = resolve(schema, all);
  if (found.anyOf) {
    return found.anyOf.map((each) => outline(each, all, indent)).join(" or ");
  }
  if (found.properties) {
    const deeper = indent + INDENT;
    const lines = Object.entries(found.properties).map(([name, field]) => {
      const said = field.description ? `  — ${field.description}` : "";
      return `${deeper}"${name}": ${outline(field, all, deeper)}${said}`;
    });
    return `{\n${lines.join("\n")}\n${indent}}`;
  }
  if (found.prefixItems) {
    return `[${found.prefixItems.map((each) => outline(each, all, indent)).join(", ")}]`;
  }
  if (found.type === "array") return `[${outline(found.items ?? {}, all, indent)}, …]`;
  if (found.additionalProperties) {
    return `{"…": ${outline(found.additionalProperties, all, indent)}}`;
  }
  if (found.const !== undefined) return JSON.stringify(found.const);
  if (found.enum) return found.enum.map((each) => JSON.stringify(each)).join(" or ");
  return found.type ?? "anything";
}

/** One answer of a route: its status, and the JSON that comes with it. */
function answer(status, said, all) {
  const schema = said.content?.["application/json"]?.schema;
  const title = element("summary", "", element("code", "", status), ` ${said.description}`);
  if (!schema || Object.keys(schema).length === 0) return element("p", "", ...title.childNodes);
  return element("details", "", title, element("pre", "", outline(schema, all)));
}

/** One route. */
function route(method, path, said, all) {
  const card = element("article", "card route");
  card.append(
    element(
      "h3",
      "",
      element("span", "method", method.toUpperCase()),
      element("code", "", path),
      element("span", "", said.summary ?? ""),
    ),
    element("p", "hint", said.description ?? ""),
  );
  if (said.security) {
    card.append(element("p", "key", "Wants a key, where the server asks for keys."));
  }
  const answers = Object.entries(said.responses).map(([status, each]) => answer(status, each, all));
  card.append(element("div", "answers", ...answers));
  return card;
}

/** The whole page. */
function render(description) {
  const all = description.components?.schemas ?? {};
  const groups = new Map();
  for (const [path, methods] of Object.entries(description.paths)) {
    for (const [method, said] of Object.entries(methods)) {
      const group = said.tags?.[0] ?? "";
      if (!groups.has(group)) groups.set(group, []);
      groups.get(group).push(route(method, path, said, all));
    }
  }
  const title = `${description.info.title} ${description.info.version}`;
  const parts = [element("h1", "", title), element("p", "hint", description.info.description)];
  for (const [group, routes] of groups) parts.push(element("h2", "", group), ...routes);
  return parts;
}

const main = document.getElementById("routes");
try {
  const answered = await fetch("openapi.json");
  if (!answered.ok) throw new Error(`the server answered ${answered.status}`);
  main.replaceChildren(...render(await answered.json()));
} catch (error) {
  main.replaceChildren(
    element("p", "error", `openapi.json could not be read: ${error.message}. Load the page again.`),
  );
}
main.removeAttribute("aria-busy");
