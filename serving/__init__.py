"""The online half: index, export, releases, funnel, HTTP. Imports features and models alone."""
