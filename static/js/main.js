// Starts the page: takes the key from the address, chooses the language, joins the parts.
import { ChatClient } from "./chat_client.js";
import { ChatController } from "./chat_controller.js";
import { Conversation } from "./conversation.js";
import { LoadingWatch, readHealth } from "./health.js";
import { keyOnPage } from "./keyboard.js";
import { Languages } from "./languages.js";
import { Page } from "./page.js";
import { parsePageSettings, privacySentence, shortModelName } from "./page_settings.js";
import { fillPageText } from "./page_text.js";
import { readPrompt } from "./prompt_source.js";
import { Session, takeAccessKey } from "./session.js";
import { chooseLanguage, createSay } from "./strings.js";
import { followKeyboard } from "./viewport.js";
import { wordFailure } from "./wording.js";

const accessKeyInAddress = takeAccessKey(location, history);
const settings = parsePageSettings(document.getElementById("page-settings")?.textContent ?? "");
const language = chooseLanguage(navigator.languages);
const say = createSay(language);

document.documentElement.lang = language;
fillPageText(document, say);
const elements = collectElements();
elements.privacy.textContent = say(privacySentence(settings), {
  model: settings.modelName || say("thisModel"),
  relay: settings.relay,
});
showModelName();

const session = new Session((path, init) => fetch(path, init));
const conversation = new Conversation();
const watch = new LoadingWatch(() => readHealth(session), (health) => page.showHealth(health));
const languages = new Languages({
  storage: storageOf(window),
  preset: { source: settings.sourceLanguage, target: settings.targetLanguage },
  language,
});
const page = new Page(elements, {
  say,
  settings,
  language,
  languages,
  conversation,
  hooks: {
    send: (text) => controller.send(text),
    act: (exchange, action) => controller.act(exchange, action),
    cancel: () => controller.cancel(),
    newChat: () => controller.newChat(),
    readPrompt: (request, signal) => readPrompt(session, request, signal),
    signIn: (accessKey) => enter(accessKey),
    waiting: (waiting) => watch.setWaiting(waiting),
    pinged: () => watch.pinged(),
    answered: () => watch.answered(),
    unavailable: () => watch.check(),
  },
});
const controller = new ChatController(conversation, new ChatClient(session), page, () => languages.fields);

document.addEventListener("keydown", cancelByKey);
document.addEventListener("visibilitychange", () => watch.setVisible(!document.hidden));
window.addEventListener("hashchange", () => enterBy(takeAccessKey(location, history)));
followKeyboard(window);
page.composer.focus();
document.documentElement.dataset.ready = "";
await enterBy(accessKeyInAddress);
if (accessKeyInAddress === null) await look();

function collectElements() {
  const found = {};
  for (const element of document.querySelectorAll("[id]")) {
    found[element.id.replace(/-(\w)/g, (_, letter) => letter.toUpperCase())] = element;
  }
  return found;
}

// Where the visitor forbids it, even to look at it throws.
function storageOf(window) {
  try {
    return window.localStorage;
  } catch {
    return null;
  }
}

function showModelName() {
  const name = shortModelName(settings.modelName) || say("pageTitle");
  document.title = name;
  elements.modelName.textContent = name;
  elements.modelName.title = settings.modelName;
}

async function enterBy(accessKey) {
  if (accessKey === null) return;
  const problem = await enter(accessKey);
  if (problem === "") return;
  if (settings.accessKeyRequired) page.showSignIn(problem);
  else await look();
}

// Resolves to a sentence when the key does not open the server, else to "".
async function enter(accessKey) {
  try {
    await session.signIn(accessKey);
  } catch (failure) {
    return failure.kind === "access" ? say("signInWrong") : wordFailure(failure, false, say).title;
  }
  if (page.signIn.shown) page.hideSignIn();
  await look();
  return "";
}

async function look() {
  const health = await watch.check();
  if (health.status === "unknown") return;
  session.recognised(health.recognised);
  if (settings.accessKeyRequired && !health.recognised && !session.holdsKey) page.showSignIn("");
}

function cancelByKey(event) {
  if (page.prompt.shown || keyOnPage(event, controller.busy) === null) return;
  event.preventDefault();
  controller.cancel();
}
