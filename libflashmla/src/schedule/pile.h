/* pile.h - the work of a call as the host scheduler sees it: what tiles cost, and where on the line of all work they
 * lie. */
#ifndef FLASHMLA_SCHEDULE_PILE_H_
#define FLASHMLA_SCHEDULE_PILE_H_

#include "schedule/schedule.h"

/* The call, how it is tiled, and what its requests before each cost. */
typedef struct fm_pile {
  const fm_work *work;
  const fm_tiling *tiling;
  const int64_t *cost_before;
} fm_pile;

fm_tile_index fm_pile_tile(const fm_pile *pile, int32_t tile);
int64_t fm_units_of(const fm_pile *pile, int32_t request);
int64_t fm_tile_cost(const fm_pile *pile, int32_t request);
/* Live tiles of a request, a KV head. */
int64_t fm_live_tiles(const fm_pile *pile, int32_t request);
/* Cost of all tiles; of those before tile t. */
int64_t fm_total_cost(const fm_pile *pile);
int64_t fm_cost_at(const fm_pile *pile, int64_t t);

/* What the bands of a schedule have in common. */
typedef struct fm_band {
  int32_t tiles, parts;
  int64_t cost;
} fm_band;
fm_band fm_band_of(const fm_pile *pile);

/* A search for positions that only grow, so that it goes on from the last one: of the request, and anew in another
 * column. Numbered request by request, all tiles are one column of requests. */
typedef struct fm_search {
  int64_t column;
  int32_t request;
} fm_search;
/* The tile in which a position lies, of less than all cost; `offset`: how far behind its begin. */
int32_t fm_find_tile(const fm_pile *pile, fm_search *at, int64_t position, int64_t *offset);

/* filling.c: the cuts of batch-invariant work but for the first, and the slots of what lies between them. */
void fm_cut_between_items(const fm_pile *pile, fm_schedule schedule);

#endif /* FLASHMLA_SCHEDULE_PILE_H_ */
