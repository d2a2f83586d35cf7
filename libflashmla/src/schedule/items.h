/* items.h - pieces of batch-invariant work, and what is stored of them where tiles are cut. */
#ifndef FLASHMLA_SCHEDULE_ITEMS_H_
#define FLASHMLA_SCHEDULE_ITEMS_H_

#include "schedule/schedule.h"

/* The sums that make a query row are those over the pieces of its request, joined in one order, and neither depends on
 * anything but the request's own tokens: the row has the same bits beside other requests, beside other query tokens of
 * its own request, and behind other tokens of the cache.
 *
 * Pieces lie at fixed positions: piece j begins at quantum  b(j) = j + max(0, j - FM_SMALL_PIECES). So the first are of
 * one quantum and the others of two, and the last one ends with the request. A node is FM_NODE_PIECES pieces in turn,
 * and begins at quantum 0, 8, 24, 40, ... A piece gives each row x, normalised and in float32, and its base-2
 * log-sum-exp l, -inf for a row that attends to nothing in it. A node is the left fold of its pieces, a row the left
 * fold of the nodes:
 *
 *     fold((c, lc), (x, lx)):  m = max(lc, lx);  wc = 2^(lc - m);  wx = 2^(lx - m);  l = m + log2(wc + wx);
 *                              row = c * wc / (wc + wx) + x * wx / (wc + wx)
 *
 * and where one side is empty, exactly the other side. One backend does this with the same instructions wherever it
 * does it, and rounds only when the row goes to out. Pieces behind the last token that a row attends are empty, so
 * longer requests change nothing.
 *
 * A tile with a cut inside is a cut tile: of each item (piece or node) a slot is stored, and afterwards folded. Other
 * tiles are folded by their part on the way, with `carries` slots of each part (2: of the node and of the tile) in
 * front of all others, whether used or not: those of part w are carries * w and carries * w + 1. The items of a cut
 * tile lie in contiguous slots:
 *
 *     first_slot[0] = carries * num_parts;   first_slot[w + 1] = first_slot[w] + items of part w;   total =
 *     first_slot[num_parts]
 *     items of part w: those of its run of the cut tile that it begins inside (cut[w].unit > 0), up to cut[w + 1] or to
 *         the tile's end; then those of its run of the cut tile that it begins and ends inside (cut[w + 1].unit > 0, in
 *         another tile or with cut[w].unit = 0)
 *
 * With lengths that changed after planning a whole tile has the pieces of the current length; a run of a cut tile has
 * exactly the items that the plan has slots for, the last one of the tile runs to the current end, and items behind
 * that are empty. So rows are right, and their bits are those promised while the number of pieces is the plan's. */
enum { FM_SMALL_PIECES = 8, FM_NODE_PIECES = 8, FM_LEVELS = 3 };
/* Quantum at which piece j begins; the piece that a quantum is of; how many pieces so many quanta have. */
static inline int64_t fm_piece_begin(int64_t j) { return j + fm_max64(0, j - FM_SMALL_PIECES); }
static inline int64_t fm_piece_at(int64_t quantum) {
  return quantum < FM_SMALL_PIECES ? quantum : (quantum + FM_SMALL_PIECES) / 2;
}
static inline int64_t fm_pieces_of(int64_t quanta) {
  return quanta <= FM_SMALL_PIECES ? quanta : (quanta + FM_SMALL_PIECES + 1) / 2;
}

/* Items from the quantum `begin`, where one begins, to the quantum `end`. */
int64_t fm_items_between(int64_t begin, int64_t end, int32_t level);
/* Quanta of a tile that has so many units: at least one. */
static inline int64_t fm_quanta_of(const fm_tiling *tiling, int64_t units) {
  return fm_max64(fm_ceil_div(units, tiling->piece_units), 1);
}
/* First piece of an item; the item that a piece is of. */
int64_t fm_first_piece(int64_t item, int32_t level);
int64_t fm_item_of(int64_t piece, int32_t level);
/* Costs of batch-invariant tiles: of one that has so many units; of its pieces before one, but for start_overhead; how
 * many pieces cost so much at most; and a bound of what an item costs. */
int64_t fm_cost_of_pieces(const fm_tiling *tiling, int64_t units);
int64_t fm_cost_before_piece(const fm_tiling *tiling, int64_t piece);
int64_t fm_pieces_for(const fm_tiling *tiling, int64_t cost);
int64_t fm_most_of_item(const fm_tiling *tiling, int32_t level);
int32_t fm_level(const fm_tiling *tiling, fm_schedule schedule);
/* What a part stores of a cut tile. */
typedef struct fm_items {
  int32_t tile;
  int32_t first, count; /* of the tile's items; count 0: there are none */
  int32_t slot;         /* of the first item */
  bool ends;            /* the last item runs to the current end of the request */
} fm_items;
/* Of the tile that a part begins inside, and of the tile that it begins and does not end. */
fm_items fm_first_items(const fm_tiling *tiling, fm_schedule schedule, int32_t part);
fm_items fm_last_items(const fm_tiling *tiling, fm_schedule schedule, int32_t part);

#endif /* FLASHMLA_SCHEDULE_ITEMS_H_ */
