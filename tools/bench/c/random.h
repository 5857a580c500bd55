/* The numbers that both sides draw. */

static u32 random_state = 1;

static u32 draw(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 17;
	random_state ^= random_state << 5;
	return random_state;
}

static void shuffle(u32 *list, u32 count)
{
	for (u32 i = 0; i < count; i++)
		list[i] = i;
	for (u32 i = count - 1; i > 0; i--) {
		u32 j = draw() % (i + 1), t = list[i];

		list[i] = list[j];
		list[j] = t;
	}
}
