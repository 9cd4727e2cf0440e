"""Write items.csv and clicks.csv of a made-up shop into this folder: three weeks, so that a ranker has something to learn.

The files have the columns that `upeti feed import csv` reads. People have one or two kinds of things they like, new items come
every day, and what is new is clicked more.
"""

import csv
import random
import time
from pathlib import Path

KINDS = ("garden", "kitchen", "books", "music", "cycling", "games")
WORDS = {
    "garden": ("spade", "seeds", "hose", "rose", "bench", "pots"),
    "kitchen": ("pan", "knife", "bowl", "kettle", "spices", "whisk"),
    "books": ("novel", "atlas", "poems", "diary", "thriller", "cookbook"),
    "music": ("guitar", "record", "drum", "flute", "songbook", "strings"),
    "cycling": ("saddle", "helmet", "pump", "lamp", "bell", "tyre"),
    "games": ("puzzle", "chess", "cards", "dice", "kite", "blocks"),
}
DAYS, ITEMS_A_DAY, USERS, CLICKS_A_DAY = 21, 12, 150, 2
DAY_S = 86_400

draw = random.Random(1)  # noqa: S311 - makes up a shop, guards nothing
now_s = int(time.time())
first_s = now_s - DAYS * DAY_S
items = []
for number in range(DAYS * ITEMS_A_DAY):
    kind = draw.choice(KINDS)
    title = f"{draw.choice(('small', 'red', 'old', 'fine', 'light'))} {draw.choice(WORDS[kind])} no. {number}"
    items.append((f"item-{number}", title, kind, first_s + number // ITEMS_A_DAY * DAY_S))
likes = {user: draw.sample(KINDS, 2) for user in range(USERS)}

with Path("items.csv").open("w", newline="", encoding="utf-8") as file:
    rows = csv.writer(file)
    rows.writerow(("item", "title", "genre", "published_at"))
    rows.writerows(items)

with Path("clicks.csv").open("w", newline="", encoding="utf-8") as file:
    rows = csv.writer(file)
    rows.writerow(("user", "item", "kind", "at"))
    for day in range(DAYS):
        there = items[: (day + 1) * ITEMS_A_DAY]
        for user in range(USERS):
            liked = [item for item in there if item[2] in likes[user]] or there
            for _ in range(CLICKS_A_DAY):
                newest = min(len(liked) - 1, int(draw.expovariate(0.12)))
                at_s = first_s + day * DAY_S + draw.randrange(1, DAY_S)
                rows.writerow((f"user-{user}", liked[-1 - newest][0], "click", at_s))

print(f"items.csv: {len(items)} items; clicks.csv: {DAYS * USERS * CLICKS_A_DAY} clicks of {USERS} people")
