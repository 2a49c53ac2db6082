"""The main job of ``make run``: real requests through the whole flow, and an honest account of what it brought."""
