// What a viewer says of videos and channels beside watching them.

import { call, part } from "./api.js";
import { newId } from "./dom.js";

export const event = (type, user, video, more = {}) => ({
  event_id: newId(), type, user_id: user, video_id: video.video_id,
  ...(video.page_id ? { page_id: video.page_id } : {}), ...more,
});

export const report = (events, options) => call("/v1/events", { events }, options);

// kind is "video_id" or "channel_id"; a value of 0 takes back.
const about = (type, user, kind, id, value) => ({
  event_id: newId(), type, user_id: user, [kind]: id, ...(value === undefined ? {} : { value }) });

export const give = (type, user, kind, id) => report([about(type, user, kind, id)]);
export const takeBack = (type, user, kind, id) => report([about(type, user, kind, id, 0)]);

// What holds of what was given, newest first in `feedback`: the last word on each target.
export function standing(feedback, type) {
  const said = new Map();
  for (const given of feedback)
    if (given.type === type) {
      const [kind, id] = given.channel_id ? ["channel_id", given.channel_id] : ["video_id", given.video_id];
      if (!said.has(kind + id)) said.set(kind + id, { kind, id, is: given.value !== 0 });
    }
  return [...said.values()].filter((one) => one.is);
}

export const stands = (feedback, type, kind, id) =>
  standing(feedback, type).some((one) => one.kind === kind && one.id === id);

// Shows again all that was hidden, however it was.
export async function showAll(user, { feedback, blocked }) {
  const hidden = standing(feedback, "hide");
  if (hidden.length) await report(hidden.map(({ kind, id }) => about("hide", user, kind, id, 0)));
  if (blocked.videos.length || blocked.channels.length)
    await call("/v1/users/" + part(user) + "/blocked", { videos: [], channels: [] }, { method: "PUT" });
}
