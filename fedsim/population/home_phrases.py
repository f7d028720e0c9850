"""What people say to a smart home: intents, ways to ask, and values, with when each is in use.

Ways overlap on purpose, as in the field: "play golden hour" is a song, a playlist or a podcast,
and "turn it off" is the lights, an appliance or an alarm. Values in `passing` come and go in the
order in which they are listed; intents may appear or fade. Every name of a song, artist, podcast
or book is invented.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of value: a slot type, or a manner of speaking.

    Attributes:
      loyalty: probability that a person uses one of its own favourites.
      steady: values always in use, the most frequent first, separated by commas.
      passing: values that come and go in this order, separated by commas.
      silence: probability of no word at all; manners only.
    """

    loyalty: float
    steady: str
    passing: str = ""
    silence: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Intent:
    """Something people ask for.

    Attributes:
      weight: how often, relative to other intents.
      ways: ways to ask, one a line; `{kind}` stands for a value.
      shortcuts: clipped ways to ask, used less often; many fit several intents.
      appears: share of all time that passes before anybody asks for it; 0 is from the start.
      fades: share of all time after which fewer and fewer ask for it; 1 is never.
    """

    weight: float
    ways: str
    shortcuts: str = ""
    appears: float = 0.0
    fades: float = 1.0


MANNERS = {
    "opening": Kind(
        loyalty=0.8,
        silence=0.6,
        steady="please, hey home, ok home, hi, ok, hey, hello, so, excuse me, alright, listen, "
        "quick question, now",
    ),
    "filler": Kind(loyalty=0.2, silence=0.94, steady="um, uh, like, er, you know, hmm"),
    "closing": Kind(
        loyalty=0.8,
        silence=0.72,
        steady="please, thanks, for me, right now, thank you, now, would you, if you can, ok",
    ),
}

SLOTS = {
    "song": Kind(
        loyalty=0.5,
        steady="midnight river, golden hour, paper boats, home again, blue lantern, slow rain, "
        "northern lights, april, the long way, summer rain, glass garden, my brother's car, "
        "hold the line for me, winter song, ten thousand stars, the lamp, radio silence, green",
        passing="old harbour, saturday, silver thread, count to ten, in the kitchen, lost weekend, "
        "paper moon, run river run, alarm, sugar and salt, quiet storm, satellite, velvet morning, "
        "neon rain, seven steps, echoes of june, gravity, hollow moon, holiday, wildfire, "
        "tomorrow, static bloom, the last train, orbit, copper sky, after midnight",
    ),
    "artist": Kind(
        loyalty=0.6,
        steady="the paper boats, nora vale, jordan, river and sons, the night clerks, ana lima, "
        "blue harbour, tom ashby, florence, little monsoon, the wednesday club, sam otero",
        passing="old harbour band, maya lind, the static, june carrow, copper foxes, dj orbit, "
        "the velvet hours, georgia, kite season, neon choir, alina moss, the hollow moons",
    ),
    "genre": Kind(
        loyalty=0.6,
        steady="jazz, rock, pop, classical music, hip hop, country, folk, blues, piano music, "
        "soul, dance music, metal",
        passing="disco, swing, synth pop, lo fi, drum and bass, ambient",
    ),
    "playlist": Kind(
        loyalty=0.85,
        steady="morning coffee, golden hour, focus, workout, sunday cooking, road trip, sleep, "
        "dinner party, rainy day, running, kids songs, chill, saturday, party",
        passing="new year, winter song, spring cleaning, garden, summer rain, holiday, barbecue, "
        "back to school, autumn leaves, midnight drive, study night, snow day",
    ),
    "podcast": Kind(
        loyalty=0.7,
        steady="the daily brief, midnight radio, golden hour, science in ten minutes, home again, "
        "the long way, kitchen stories, two lawyers, the garden hour, history for dinner",
        passing="the trial, lost weekend, money talk, the static, deep space, crime by the river, "
        "satellite, founders, green room, tomorrow, after midnight, the last train",
    ),
    "audiobook": Kind(
        loyalty=0.6,
        steady="the river at midnight, home again, a house in florence, the glass garden, "
        "winter in the north, the clockmaker, ten thousand stars, my brother's letters",
        passing="the harbour master, the silver thread, the trial, a quiet storm, the lighthouse, "
        "gravity, daughters of june, copper mountain, the last train, the orchard",
    ),
    "station": Kind(
        loyalty=0.8,
        steady="radio one, city radio, classic rock radio, harbour radio, the news station, "
        "radio five, jazz radio, ninety nine point five, night radio, green radio",
    ),
    "room": Kind(
        loyalty=0.75,
        steady="living room, kitchen, bedroom, bathroom, hallway, office, garage, dining room, "
        "garden, basement, nursery, attic, porch, guest room, upstairs, studio",
    ),
    "device": Kind(
        loyalty=0.6,
        steady="tv, fan, heater, coffee maker, lamp, dishwasher, washing machine, air conditioner, "
        "oven, radio, sprinkler, humidifier, plug, kettle, speaker, christmas tree",
        passing="electric blanket, dehumidifier, projector, pool pump, air purifier, mower, "
        "bread maker, robot arm, aquarium, heat pump",
    ),
    "percent": Kind(
        loyalty=0.3,
        steady="fifty percent, fifty, ten percent, twenty, thirty percent, seventy, half, "
        "eighty percent, twenty five percent, maximum, ten, five, forty, minimum, seven, three",
    ),
    "temperature": Kind(
        loyalty=0.4,
        steady="twenty degrees, twenty one, twenty, seventy degrees, nineteen degrees, "
        "sixty eight, twenty two degrees, seventy, eighteen, seventy two, "
        "twenty three, sixty five degrees",
    ),
    "time": Kind(
        loyalty=0.4,
        steady="seven, six thirty, seven am, eight, half past six, noon, six, five pm, nine, "
        "ten thirty, quarter to eight, eight pm, five, seven in the morning, three, ten, "
        "midnight, four thirty, two pm, eleven, twenty past nine, six forty five, half past ten",
    ),
    "date": Kind(
        loyalty=0.2,
        steady="tomorrow, today, monday, friday, this weekend, tonight, saturday, sunday, tuesday, "
        "next week, wednesday, thursday, tomorrow morning, this afternoon, next friday",
        passing="january first, the tenth of february, march, april, may fifth, june, "
        "the end of july, august, september third, the first of october, november, christmas eve",
    ),
    "duration": Kind(
        loyalty=0.3,
        steady="ten minutes, five minutes, half an hour, twenty minutes, one hour, three minutes, "
        "fifteen minutes, seven minutes, two hours, forty five minutes, ninety seconds, an hour",
    ),
    "contact": Kind(
        loyalty=0.85,
        steady="mom, dad, my wife, my husband, my brother, anna, tom, grandma, jordan, florence, "
        "the office, sam, my sister, maria, doctor reyes, april, uncle joe, paul, lena, sydney",
        passing="the plumber, coach miller, georgia, the landlord, ben, virginia, aunt may, "
        "the babysitter, omar, june, the electrician, mister park, paris, nina, the school",
    ),
    "item": Kind(
        loyalty=0.4,
        steady="milk, eggs, bread, coffee, bananas, butter, toilet paper, cheese, apples, rice, "
        "chicken, dish soap, pasta, onions, dog food, olive oil, tomatoes, batteries, sugar, salt",
        passing="soup, oranges, chocolate hearts, seeds, asparagus, strawberries, sunscreen, "
        "charcoal, ice cream, peaches, notebooks, pumpkins, candles, tea, cinnamon, wrapping paper",
    ),
    "list": Kind(
        loyalty=0.7,
        steady="shopping, grocery, to do, packing, party, hardware store, gift, work",
    ),
    "place": Kind(
        loyalty=0.5,
        steady="work, london, paris, the airport, new york, florence, sydney, berlin, home, "
        "the city, boston, school, the office, the harbour, jordan, georgia, rome, downtown",
        passing="the ski slope, lisbon, virginia, the lake, madrid, the beach, athens, the stadium",
    ),
    "event": Kind(
        loyalty=0.4,
        steady="meeting, dentist appointment, lunch, dinner, doctor's appointment, yoga, birthday, "
        "soccer practice, book club, haircut, piano lesson, dinner with anna, parents' evening",
        passing="ski trip, tax appointment, spring concert, wedding, exam, graduation, barbecue, "
        "camping trip, school play, house viewing, holiday party, game night",
    ),
    "task": Kind(
        loyalty=0.4,
        steady="take out the trash, call mom, water the plants, feed the cat, pay the rent, "
        "buy milk, take my pills, pick up the kids, walk the dog, check the oven, lock the door, "
        "do the laundry, send the letter",
        passing="shovel the snow, file the taxes, plant the seeds, book the flights, mow the lawn, "
        "clean the pool, pack the bags, sign the forms, rake the leaves, wrap the presents",
    ),
    "topic": Kind(
        loyalty=0.5,
        steady="sports, the world, technology, business, politics, science, soccer, the city",
        passing="the winter games, the trial, the budget, the election, the heat wave, the strike, "
        "the satellite, the merger",
    ),
    "dish": Kind(
        loyalty=0.4,
        steady="pancakes, lasagna, chicken soup, pasta, banana bread, curry, pizza, fried rice, "
        "apple pie, omelette, chili, tacos",
        passing="onion soup, asparagus risotto, strawberry cake, potato salad, peach cobbler, "
        "pumpkin soup, gingerbread, roast goose",
    ),
}

INTENTS = {
    "lights_on": Intent(
        weight=7,
        ways="""turn on the {room} lights
            turn the lights on in the {room}
            switch on the lights
            {room} lights on
            put the lights on in the {room}
            i need light in the {room}
            light up the {room}
            it's too dark in the {room}
            turn on the {room} light""",
        shortcuts="""turn on the {room}
            {room} on
            turn it on
            turn on the lamp""",
    ),
    "lights_off": Intent(
        weight=6,
        ways="""turn off the {room} lights
            turn the lights off in the {room}
            switch off the lights
            {room} lights off
            kill the lights in the {room}
            it's too bright in the {room}
            lights out in the {room}
            turn off the light in the {room}""",
        shortcuts="""turn off the {room}
            {room} off
            turn it off
            turn everything off""",
    ),
    "lights_dim": Intent(
        weight=3,
        ways="""dim the {room} lights to {percent}
            set the {room} lights to {percent}
            lower the lights in the {room}
            brighten the {room} lights
            set brightness to {percent}
            make the {room} a little darker
            dim the lights
            change the {room} lights to {percent}""",
        shortcuts="""set the {room} to {percent}
            set it to {percent}
            {room} to {percent}""",
    ),
    "device_on": Intent(
        weight=5,
        ways="""turn on the {device}
            start the {device}
            switch the {room} {device} on
            turn the {device} on
            power on the {device} in the {room}
            get the {device} going
            turn on the {room} {device}
            switch on the {device} at {time}
            {device} on""",
        shortcuts="""turn it on
            start it
            turn on the {room}""",
    ),
    "device_off": Intent(
        weight=5,
        ways="""turn off the {device}
            stop the {device}
            switch the {room} {device} off
            turn the {device} off
            shut down the {device} in the {room}
            power off the {device}
            turn off the {room} {device}
            switch off the {device} at {time}
            {device} off""",
        shortcuts="""turn it off
            turn everything off
            turn off the {room}""",
    ),
    "thermostat_set": Intent(
        weight=4,
        ways="""set the temperature to {temperature}
            set the thermostat to {temperature}
            make it {temperature} in the {room}
            heat the {room} to {temperature}
            turn the heat up to {temperature}
            cool the {room} down to {temperature}
            change the {room} temperature to {temperature}
            it's too cold in the {room}""",
        shortcuts="""set the {room} to {temperature}
            set it to {temperature}
            {room} to {temperature}
            turn it up""",
    ),
    "lock_door": Intent(
        weight=1.5,
        ways="""lock the {room} door
            lock up
            is the {room} door locked
            lock the door at {time}
            make sure the {room} is locked
            bolt the {room} door
            lock all the doors""",
        shortcuts="""lock the {room}
            close the {room}""",
        fades=0.55,
    ),
    "energy_query": Intent(
        weight=2,
        ways="""how much power did the {device} use {date}
            what's my energy use {date}
            how much electricity is the {room} using
            what did the {device} cost me {date}
            show me the power bill
            is the {device} using a lot of power
            how much energy did we use {date}""",
        shortcuts="""how much was it {date}
            what about {date}""",
        appears=0.5,
    ),
    "car_charge": Intent(
        weight=2,
        ways="""charge the car to {percent}
            start charging the car at {time}
            stop charging the car
            is the car charged
            how long until the car is full
            charge the car by {time}
            set the car to {percent}
            plug in the car {date}""",
        shortcuts="""charge it to {percent}
            how long left""",
        appears=0.65,
    ),
    "play_song": Intent(
        weight=8,
        ways="""play {song}
            play {song} by {artist}
            play some {genre}
            put on {song}
            i want to hear {artist}
            play something by {artist}
            play {artist} in the {room}
            let me hear {song}
            play the song {song}
            put on some {genre} in the {room}""",
        shortcuts="""{song}
            {song} by {artist}
            {artist}
            {genre}
            listen to {song}""",
    ),
    "play_playlist": Intent(
        weight=4,
        ways="""play my {playlist} playlist
            start the {playlist} playlist
            play {playlist}
            put on my {playlist} mix
            shuffle {playlist}
            play the {playlist} list in the {room}
            i want to hear my {playlist} playlist
            shuffle my {playlist} songs""",
        shortcuts="""{playlist}
            start {playlist}
            put on {playlist}""",
    ),
    "play_podcast": Intent(
        weight=3,
        ways="""play the podcast {podcast}
            play the latest episode of {podcast}
            play {podcast}
            continue {podcast}
            listen to {podcast}
            next episode of {podcast}
            put on {podcast} in the {room}
            is there a new episode of {podcast}""",
        shortcuts="""{podcast}
            put on {podcast}
            next episode""",
        appears=0.2,
    ),
    "play_audiobook": Intent(
        weight=2,
        ways="""read {audiobook}
            play the audiobook {audiobook}
            continue {audiobook}
            resume my book
            read me {audiobook} for {duration}
            play {audiobook}
            next chapter of {audiobook}
            listen to {audiobook}""",
        shortcuts="""{audiobook}
            next chapter
            go on with {audiobook}""",
    ),
    "play_radio": Intent(
        weight=3,
        ways="""play {station}
            tune to {station}
            turn on {station}
            put on {station} in the {room}
            listen to {station}
            switch to {station}
            start {station}""",
        shortcuts="""{station}
            turn on the radio
            play the radio""",
        fades=0.5,
    ),
    "media_stop": Intent(
        weight=4,
        ways="""stop the music
            pause
            pause the music in the {room}
            stop playing
            stop the music in {duration}
            be quiet
            pause the song
            quiet now""",
        shortcuts="""stop
            turn it off
            stop it
            stop in {duration}""",
    ),
    "media_next": Intent(
        weight=3,
        ways="""next song
            skip this song
            skip
            play the next one
            i don't like this song
            go to the next track
            skip ahead {duration}
            next track in the {room}""",
        shortcuts="""next
            next one
            go on
            play something else""",
    ),
    "volume_set": Intent(
        weight=4,
        ways="""set the volume to {percent}
            volume {percent}
            turn the volume up
            turn down the music in the {room}
            louder
            make it quieter
            volume to {percent} in the {room}
            turn it down to {percent}""",
        shortcuts="""set it to {percent}
            turn it up
            turn it down
            {percent}""",
    ),
    "alarm_set": Intent(
        weight=5,
        ways="""set an alarm for {time}
            wake me up at {time}
            wake me at {time} {date}
            alarm at {time}
            set an alarm for {time} {date}
            i have to get up at {time}
            set my alarm to {time}
            get me up at {time} {date}""",
        shortcuts="""set it for {time}
            {time} {date}
            {time}""",
    ),
    "alarm_cancel": Intent(
        weight=2,
        ways="""cancel my {time} alarm
            turn off the alarm
            delete the alarm for {date}
            stop the alarm
            no alarm {date}
            remove my alarm at {time}
            snooze for {duration}
            cancel all alarms""",
        shortcuts="""stop
            cancel {time}
            cancel it
            turn it off""",
    ),
    "timer_set": Intent(
        weight=5,
        ways="""set a timer for {duration}
            start a {duration} timer
            timer for {duration}
            count down {duration}
            give me {duration} on the clock
            set a {duration} timer for the {dish}
            tell me when {duration} are over
            time {duration} for the {device}""",
        shortcuts="""{duration}
            set it for {duration}
            {duration} for the {dish}
            start {duration}""",
    ),
    "timer_query": Intent(
        weight=1.5,
        ways="""how much time is left on my timer
            how long is left on the timer
            check the {dish} timer
            when is the timer done
            is the {duration} timer over
            what's left on the clock
            show my timers""",
        shortcuts="""how long left
            how much longer
            is it done""",
    ),
    "reminder_set": Intent(
        weight=4,
        ways="""remind me to {task}
            remind me to {task} at {time}
            remind me {date} to {task}
            don't let me forget to {task}
            set a reminder to {task} {date}
            remind me about the {event} {date}
            i have to {task} at {time}
            remind {contact} to {task}""",
        shortcuts="""{task} {date}
            {task} at {time}
            remind me {date}""",
    ),
    "calendar_add": Intent(
        weight=3,
        ways="""add {event} to my calendar {date}
            schedule a {event} {date} at {time}
            put {event} on the calendar for {date}
            i have a {event} at {time}
            book a {event} with {contact} {date}
            new event {event} {date}
            plan a {event} at {time}
            move my {event} to {date}""",
        shortcuts="""{event} {date}
            {event} at {time}
            {event} with {contact}
            add {event}""",
    ),
    "calendar_query": Intent(
        weight=3,
        ways="""what's on my calendar {date}
            when is my {event}
            do i have anything {date}
            what time is my {event} {date}
            am i free at {time} {date}
            what's my day like {date}
            when do i meet {contact}
            is the {event} {date}""",
        shortcuts="""what's on {date}
            what about {date}
            anything {date}
            what's on""",
    ),
    "weather_query": Intent(
        weight=6,
        ways="""what's the weather {date}
            will it rain {date}
            how's the weather in {place}
            do i need an umbrella {date}
            what's the forecast for {place} {date}
            is it going to snow in {place}
            how hot will it be {date}
            what's it like in {place} {date}
            weather in {place}""",
        shortcuts="""how about {date}
            what about {date}
            {place} {date}
            how warm is it
            what's the temperature in {place}""",
    ),
    "news_query": Intent(
        weight=3,
        ways="""what's the news
            tell me the news about {topic}
            what's new in {topic}
            give me the headlines
            any news about {topic} {date}
            news from {place}
            what happened in {place} {date}
            play the news""",
        shortcuts="""news
            {topic}
            what's up with {topic}
            what's new""",
        fades=0.7,
    ),
    "list_add": Intent(
        weight=5,
        ways="""add {item} to my {list} list
            put {item} on the {list} list
            we need {item}
            we are out of {item}
            add {item} and {item} to the list
            i need to buy {item}
            add {item}
            note {item} on my {list} list""",
        shortcuts="""{item}
            {item} and {item}
            more {item}
            get {item}""",
    ),
    "list_remove": Intent(
        weight=2,
        ways="""remove {item} from my {list} list
            take {item} off the list
            delete {item} from the {list} list
            i already bought {item}
            cross off {item}
            we don't need {item}
            clear my {list} list""",
        shortcuts="""no {item}
            no more {item}
            got {item}
            cancel {item}""",
    ),
    "order_item": Intent(
        weight=2.5,
        ways="""order {item}
            buy more {item}
            order {item} for {date}
            get me {item} delivered {date}
            reorder {item}
            order {dish} from the usual place
            have {item} sent to {contact}
            where is my order""",
        shortcuts="""more {item}
            get {item}
            {dish} for {time}""",
        appears=0.4,
    ),
    "call": Intent(
        weight=4,
        ways="""call {contact}
            phone {contact}
            ring {contact} at {time}
            make a call to {contact}
            i want to talk to {contact}
            call {contact} on speaker
            start a call with {contact}
            get {contact} on the line""",
        shortcuts="""{contact}
            get {contact}
            call back""",
    ),
    "message_send": Intent(
        weight=3,
        ways="""text {contact}
            send a message to {contact}
            tell {contact} i'm at {place}
            message {contact} that i'll be there at {time}
            tell {contact} to {task}
            write to {contact}
            let {contact} know that dinner is at {time}
            ask {contact} about the {event}""",
        shortcuts="""{contact}
            tell {contact}
            ask {contact}
            answer {contact}""",
    ),
    "traffic_query": Intent(
        weight=2,
        ways="""how's the traffic to {place}
            how long does it take to {place}
            when do i have to leave for {place}
            is there traffic on the way to {place}
            how do i get to {place} by {time}
            directions to {place}
            what's the fastest way to {place}""",
        shortcuts="""how long to {place}
            and to {place}
            how long
            to {place}""",
        fades=0.6,
    ),
    "recipe_find": Intent(
        weight=2.5,
        ways="""find a recipe for {dish}
            how do i make {dish}
            what can i cook with {item}
            how long do i cook {dish}
            recipe for {dish}
            what goes into {dish}
            show me a {dish} recipe with {item}""",
        shortcuts="""{dish}
            {dish} with {item}
            how long for {dish}
            next step""",
    ),
}
