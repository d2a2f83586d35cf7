/* keys_bf16.h - the keys of a step_bf16.h, and fetches of those to come. Included by it, behind its buffers. */

enum { LOGITS, SUMS, PHASES };
enum { LINE = 64 };

/* The keys of a step, and those of the next one, which are brought into the level-2 cache while these are worked on, a
 * few lines at a time: with few rows memory sets the pace, and it should never rest, nor should products wait behind a
 * burst of requests. */
typedef struct key_set {
  const void *const *rows;    /* none is NULL */
  int32_t count;              /* so many are given; zeros follow */
  int32_t in_logits, in_sums; /* rounded up to whole groups */
  int32_t by_all;             /* so many first ones are attended by all query rows */
  const void *const *coming, *zeros;
  const char *at, *end;           /* the next line to fetch, and the end of its key */
  int32_t bytes;                  /* of a key */
  int32_t fetched, until[PHASES]; /* lines; and how many at the end of a phase */
  int32_t due, each;              /* in this part, and at each call of fetch_lines */
  /* Where groups of KEY_GROUP keys lie, and how far one key is from the next in bytes: of a set that asks for that. */
  const char *group[FM_CPU_MOST_KEYS / LANES];
  int64_t group_stride[FM_CPU_MOST_KEYS / LANES];
} key_set;

INLINE void fetch(const void *key, int32_t bytes) {
  for (int32_t i = 0; key != NULL && i < bytes; i += LINE) __builtin_prefetch((const char *)key + i, 0, 2);
}

/* Lines up to a part of a phase are due in `calls` calls of fetch_lines. */
INLINE void plan_fetches(key_set *keys, int phase, int64_t part, int64_t of, int32_t calls) {
  const int32_t begin = phase == 0 ? 0 : keys->until[phase - 1], end = keys->until[phase];
  keys->due = begin + (int32_t)((end - begin) * (part < of ? part : of) / of) - keys->fetched;
  keys->each = (keys->due + calls - 1) / calls;
}

INLINE void fetch_lines(key_set *keys) {
  int32_t count = keys->each < keys->due ? keys->each : keys->due;
  if (count <= 0) return;
  keys->due -= count, keys->fetched += count;
  const char *at = keys->at, *end = keys->end;
  for (; count > 0; count--, at += LINE) {
    if (at == end) at = *keys->coming != NULL ? *keys->coming : keys->zeros, keys->coming++, end = at + keys->bytes;
    __builtin_prefetch(at, 0, 2);
  }
  keys->at = at, keys->end = end;
}

/* `room` for rows; the keys are given as to `attend`. */
static key_set key_set_of(const buffers *b, const void *room[], const void *const given[], int32_t count,
                          int32_t more) {
  enum { LEAD = 12 }; /* about as many as the first products need: these wait for all of them */
  /* Of the first step, keys themselves come, ahead of their logits. */
  const int32_t here = !*b->fresh ? count : count < LEAD ? count : LEAD;
  const int32_t bytes = (int32_t)sizeof(bf16) * b->d_qk, lines = bytes / LINE; /* whole ones */
  key_set keys = {.rows = room,
                  .count = count,
                  .in_logits = (count + KEY_GROUP - 1) / KEY_GROUP * KEY_GROUP,
                  .in_sums = (count + VALUE_GROUP - 1) / VALUE_GROUP * VALUE_GROUP,
                  .by_all = count,
                  .coming = given + here,
                  .zeros = b->zeros,
                  .bytes = bytes,
                  .until = {lines * (count - here + more / 2), lines * (count - here + more)}};
  for (int32_t t = 0; t < keys.in_logits || t < keys.in_sums; t++)
    room[t] = t < count && given[t] != NULL ? given[t] : b->zeros;
  for (int32_t t = 0; *b->fresh && t < here; t++) fetch(given[t], keys.bytes);
  return keys;
}
