// What a viewer says of videos and channels beside watching them.

import { call, part } from "./api.js";
import { newId } from "./dom.js";

export const event = (type, user, video, more = {}) => ({
  event_id: newId(), type, user_id: user, video_id: video.video_id,
  ...(video.page_id ? { page_id: video.page_id } : {}), ...more,
});

export const report = (events, options) => call("/v1/events", { events }, options);

const path = (user) => "/v1/users/" + part(user) + "/blocked";

async function change(user, changed) {
  const { blocked } = await call("/v1/users/" + part(user) + "/history?limit=1");
  await call(path(user), changed(blocked), { method: "PUT" });
}

const without = (list, id) => list.filter((one) => one !== id);

// kind is "videos" or "channels".
export const hide = (user, kind, id) =>
  change(user, (blocked) => ({ ...blocked, [kind]: [...without(blocked[kind], id), id] }));
export const show = (user, kind, id) =>
  change(user, (blocked) => ({ ...blocked, [kind]: without(blocked[kind], id) }));
export const showAll = (user) => call(path(user), { videos: [], channels: [] }, { method: "PUT" });
