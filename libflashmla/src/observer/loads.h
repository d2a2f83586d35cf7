/* loads.h - how many kernels a thread has loaded, which tells a call that had to. */
#ifndef FLASHMLA_OBSERVER_LOADS_H_
#define FLASHMLA_OBSERVER_LOADS_H_

#include <stdint.h>

void fm_note_load(void);
uint32_t fm_loads(void);

#endif /* FLASHMLA_OBSERVER_LOADS_H_ */
