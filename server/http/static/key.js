/** The key that a server may want: asked for when it does, kept for this tab, and gone with it. */

const NAME = "autocompressor.key";
let asking = null;

/** @returns {?string} */
export function storedKey() {
  return sessionStorage.getItem(NAME);
}

/**
 * Have another key than one that was refused; calls that are refused meanwhile wait for the same answer.
 * @param {?string} refused null where none was sent
 * @returns {Promise<boolean>} whether there is one
 */
export function hasAnotherKey(refused) {
  if (storedKey() !== refused) return Promise.resolve(true);
  asking ??= ask(refused !== null).finally(() => {
    asking = null;
  });
  return asking;
}

/** Shows a button that forgets the key, while there is one. */
export function offerToForget(button) {
  button.hidden = storedKey() === null;
  button.onclick = () => {
    sessionStorage.removeItem(NAME);
    location.reload();
  };
}

function ask(wasRefused) {
  const dialog = document.getElementById("key");
  const input = dialog.querySelector("input");
  dialog.querySelector("[data-say=refused]").hidden = !wasRefused;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((answer) => {
    const take = () => {
      const given = input.value.replace(/[^\x21-\x7e]/g, ""); // no header has others
      input.value = "";
      const isGiven = dialog.returnValue === "use" && given !== "";
      if (isGiven) sessionStorage.setItem(NAME, given);
      offerToForget(document.getElementById("forget"));
      answer(isGiven);
    };
    dialog.addEventListener("close", take, { once: true });
  });
}
