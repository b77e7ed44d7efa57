"""Programs in Java that pipelines are tried on: fetched once, by Maven, as pinned."""
