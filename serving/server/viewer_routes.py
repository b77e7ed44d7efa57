"""Routes for those who look at videos beside their page: one, some by words, and why."""

import functools
from collections.abc import Callable, Collection
from typing import Annotated

import fastapi
import numpy as np

from serving.funnel.funnel import Funnel
from serving.funnel.page import PageRequest
from serving.insight import why
from serving.insight.explanations import Explanation
from serving.insight.left_out import RawRankers
from serving.insight.title_search import TitleSearch
from serving.server import answers as http_answers
from serving.server import schema as http_schema
from serving.server.request_limits import WorkerPool

MAX_FOUND = 500
# A release that was replaced is still pinned by requests; more than two are not searched at once.
_SEARCHED_RELEASES = 2

# Finds videos for a request by the words of a query, at most so many.
Search = Callable[[PageRequest, str, int], list[http_schema.RecommendedVideo]]


def add(
    app: fastapi.FastAPI,
    funnel: Funnel,
    pool: WorkerPool,
    *,
    hosts: Collection[str],
    rankers: RawRankers,
) -> Search:
    """Adds the routes; returns how to search by words."""

    @functools.lru_cache(_SEARCHED_RELEASES)
    def words(version: str) -> TitleSearch:
        del version
        return TitleSearch()

    @app.get("/v1/videos/{video_id:path}", summary="A video, as on a page")
    async def video(video_id: http_schema.Id) -> http_schema.RecommendedVideo:
        def look_up() -> http_schema.RecommendedVideo:
            with funnel.releases.pin() as release:
                row = release.catalogue.row_of.get(video_id)
                if row is None:
                    raise fastapi.HTTPException(
                        404, f"Release {release.version} has no video {video_id!r}."
                    )
                (answer,) = http_answers.videos_answer(
                    release, np.array([row]), source="catalogue", hosts=hosts
                )
                return answer

        return await pool.run(look_up)

    def search_for(request: PageRequest, q: str, limit: int) -> list[http_schema.RecommendedVideo]:
        with funnel.looking(request) as answer:
            filters, release = answer.filters(), answer.release
            rows = words(release.version).find(
                release.catalogue,
                q,
                limit=limit,
                permits=lambda rows: filters.shows(rows, now=answer.viewer.now),
            )
            return http_answers.videos_answer(release, rows, source="search", hosts=hosts)

    @app.get("/v1/search", summary="Videos by the words of title, channel and topics")
    async def search(
        q: http_schema.Words,
        user_id: http_schema.Id,
        k: Annotated[int, fastapi.Query(ge=1, le=100)] = 20,
        offset: Annotated[int, fastapi.Query(ge=0, le=MAX_FOUND)] = 0,
    ) -> http_schema.SearchAnswer:
        """What the user may not be shown is left out; what was watched is not.

        Recorded is nothing: report a `search` event for a search that somebody made.
        """

        def look_up() -> http_schema.SearchAnswer:
            request = PageRequest(user_id=user_id, exclude_watched=False)
            items = search_for(request, q, offset + k + 1)
            return http_schema.SearchAnswer(
                query=q, items=items[offset : offset + k], more=len(items) > offset + k
            )

        return await pool.run(look_up)

    @app.post("/v1/why", summary="Why videos are on a page, or why not")
    async def why_(body: http_schema.WhyRequest) -> Explanation:
        """The page is made once more and recorded nowhere: it is the page of now.

        Told are the filters, the sources and their scores, the place after each stage, what the
        groups of features contribute to the expected watch time (with the group minus without it),
        the nearest of what was watched, and which stage dropped a video that is not on the page.
        """

        def explained() -> Explanation:
            with funnel.looking(http_answers.request_of(body)) as answer:
                return why.explain(answer, body.video_ids, rankers)

        return await pool.run(explained)

    return search_for
