/** How the three answers are asked for: in messages where the model has a chat template, else by a text to continue. */

/**
 * @param {string} prompt the question, or the text to continue
 * @param {{sampling: Object, expand: ?{segments: number}}} options
 * @returns {Object<string, [string, Object]>} of each kind of answer, a path and a body
 */
export function questionsOf(session, prompt, { sampling, expand }) {
  const asked = { session, prompt, sampling, expanding: expand ? { expand } : {} };
  return session.model?.has_chat_template ? inMessages(asked) : toContinue(asked);
}

function inMessages({ session, prompt, sampling, expanding }) {
  const say = (content, more = {}) => [
    "/v1/chat/completions",
    {
      ...sampling,
      model: session.model.name,
      messages: [{ role: "user", content }],
      stream_options: { include_usage: true },
      ...more,
    },
  ];
  return {
    summary: say([...session.summaryParts(), { type: "text", text: prompt }], expanding),
    text: say(`${session.sourceText()}\n\n${prompt}`, { truncate: "left" }),
    nothing: say(prompt),
  };
}

function toContinue({ session, prompt, sampling, expanding }) {
  const ids = session.sources.map((source) => source.id);
  const whole = {
    ...sampling,
    model: session.model?.name,
    prompt: `${session.sourceText()}\n\n${prompt}`,
    truncate: "left",
    stream_options: { include_usage: true },
  };
  return {
    summary: ["/generate", { ...sampling, summary_ids: ids, prompt: ` ${prompt}`, ...expanding }],
    text: ["/v1/completions", whole],
    nothing: ["/generate", { ...sampling, prompt }],
  };
}
