"""Texts of /proc/zoneinfo."""

from __future__ import annotations

# The kernel's own layout (v6.18), per-CPU lists and all, since they repeat words of the zone.
ZONE = """\
Node {nid}, zone {name:>8}
  pages free     {free}
        boost    0
        min      {min}
        low      {low}
        high     {high}
        promo    {promo}
        spanned  {spanned}
        present  {present}
        managed  {managed}
        cma      0
        protection: {protection}
"""
POPULATED = """\
      nr_free_pages {free}
      nr_zone_inactive_anon 5
  pagesets
    cpu: 0
              count:    988
              high:     11938
              batch:    63
              high_min: 3346
              high_max: 22528
  vm stats threshold: 20
  node_unreclaimable:  0
  start_pfn:           {start}
"""


def zone(
    nid,
    name,
    start=0,
    spanned=0,
    present=None,
    managed=None,
    protection="(0, 0, 0, 0, 0)",
    marks=(8, 10, 12, 14),
):
    present = spanned if present is None else present
    values = {
        "nid": nid,
        "name": name,
        "start": start,
        "spanned": spanned,
        "present": present,
        "managed": present if managed is None else managed,
        "free": present // 2,
        "protection": protection,
        **dict(zip(("min", "low", "high", "promo"), marks, strict=True)),
    }
    return (ZONE + (POPULATED if present else "")).format(**values)


def empty_zones(nid, *names):
    return "".join(zone(nid, name, marks=(0, 0, 0, 0)) for name in names)
